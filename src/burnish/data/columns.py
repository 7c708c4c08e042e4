"""One more column of rows that were read before: held-out rows are kept without their raw columns."""

from __future__ import annotations

from collections.abc import Collection

from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.data.config import DataConfig
from burnish.data.streams import CHUNK, Opened
from burnish.data.tasks import Task

NOTHING = "(nothing)"


def column_values(config: DataConfig, task: Task, column: str, ids: Collection[str]) -> dict[str, str]:
    """The values of a column, by the names of the rows; one pass over the files.

    Args:
        config: The recipe's `data:`.
        task: What is learnt from the rows.
        column: Name of the column, as the files spell it.
        ids: The rows that are asked for, `file:line`.

    Raises:
        UserError: No row has such a column.
    """
    wanted, found, known = set(ids), dict[str, str](), dict[str, None]()
    opened = Opened.of(config, None, task)
    for stream in opened.streams():
        known |= dict.fromkeys(stream.read.columns)
        for chunk in stream.chunks(CHUNK):
            for example in chunk.examples:
                if example.id in wanted and column in example.fields:
                    value = example.fields[column]
                    found[example.id] = str(value).strip() if value not in (None, "") else NOTHING
    if column not in known:
        raise UserError(f"there is no column `{column}`", where="--group-by", fix=suggestion(column, known))
    return {name: found.get(name, NOTHING) for name in wanted}
