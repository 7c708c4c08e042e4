"""Rows of general text, for terms that look at more than the task's rows. Their order is a function of the update.

Replayed rows (`train/mixed.py`) go another way: they are trained on like the task's, so they are planned for a whole
training in an exact ratio, and dealt to processes row by row, before there is a model. Rows of a term are made of the
loaded model, are as many in every update, and are known to all processes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import UserError
from burnish.core.paths import resolve_path
from burnish.core.types import Batch
from burnish.data.batches import epoch_order
from burnish.data.general import TEXTS
from burnish.data.render import Rendered
from burnish.data.table import TokenTable
from burnish.models.route import tasks_of
from burnish.regularizers.base import Subject


def read_texts(path: str | None, subject: Subject) -> list[str]:
    """The texts of a file: paragraphs of a text file, or the field `text` of every line of a JSONL file.

    Raises:
        UserError: The file cannot be read, holds no text, or is one that the run is measured on.
    """
    file = resolve_path(path) if path is not None else TEXTS
    refuse_held_out(file, subject)
    try:
        content = file.read_text(encoding="utf-8")
        texts = _READERS.get(file.suffix.lower(), _paragraphs)(content)
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "name a UTF-8 text file with an empty line between texts, or JSONL rows with a field `text`"
        raise UserError(f"general text cannot be read: {error!r}", where=str(file), fix=fix) from None
    found = [text for text in texts if text]
    if not found:
        raise UserError("the file holds no text", where=str(file), fix="name one that does, or leave `data` out")
    return found


def refuse_held_out(file: Path, subject: Subject) -> None:
    """Refuse a file that the run is measured on: what is trained on measures nothing any more.

    Raises:
        UserError: It is such a file, or has the same content.
    """
    for text in subject.held_out:
        other = Path(text)
        if other.is_file() and (other.resolve() == file.resolve() or other.read_bytes() == file.read_bytes()):
            raise UserError(
                "the run is measured on these texts, and what is trained on measures nothing any more",
                where=f"regularizers: data: {file}",
                fix="name other general text, or leave `data` out for the texts that come with Burnish",
            )


def _paragraphs(content: str) -> list[str]:
    return [part.strip() for part in content.replace("\r\n", "\n").split("\n\n")]


def _fields(content: str) -> list[str]:
    return [str(json.loads(line)["text"]).strip() for line in content.splitlines() if line.strip()]


_READERS = {".jsonl": _fields}


@dataclass(frozen=True)
class General:
    """General texts as rows.

    Attributes:
        table: The rows.
        source: What their batches are called.
        subject: The run.
        rows: Rows of each update.
    """

    table: TokenTable
    source: str
    subject: Subject
    rows: int

    @classmethod
    def read(cls, path: str | None, subject: Subject, *, source: str, rows: int, max_length: int) -> General:
        """Read and tokenise the texts; each is cut at ``max_length`` tokens.

        Of an encoder-decoder the first half of a text is read and the second one written.
        """
        tokens = subject.tokenizer(read_texts(path, subject), verbose=False)["input_ids"]
        rendered = [made for ids in tokens if (made := _rendered(list(ids)[:max_length], subject))]
        if not rendered:
            raise UserError("no text has two tokens", where="regularizers: data", fix="name longer texts")
        names = [f"general:{number}" for number in range(1, len(rendered) + 1)]
        return cls(TokenTable.build(names, rendered), source, subject, min(rows, len(rendered)))

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one update."""
        return [self._marked(batch) for batch in self.subject.micro_batches(self.table, self.numbers(step))]

    def numbers(self, step: int) -> list[int]:
        """Row numbers of one update: epochs follow each other without a break, each in an order of its own."""
        size, found = len(self.table), list[int]()
        for place in range(step * self.rows, (step + 1) * self.rows):
            epoch, index = divmod(place, size)
            found.append(int(_order(size, self.subject.seed, epoch)[index]))
        return found

    def singly(self, count: int) -> Iterator[Batch]:
        """The first rows one by one, where the model is; from the beginning again where there are fewer."""
        for row in range(count):
            batch = self.subject.collate(self.table, [row % len(self.table)])
            yield self.subject.moved(self._marked(batch))

    def _marked(self, batch: Batch) -> Batch:
        batch["source"] = self.source
        if tasks_of(self.subject.model):  # general text is of no task: it uses what all tasks share
            batch["tasks"] = (None,) * len(batch["row_ids"])
        return batch


@lru_cache(maxsize=2)
def _order(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return epoch_order(size, seed=seed, epoch=epoch)


def _rendered(ids: list[int], subject: Subject) -> Rendered | None:
    if len(ids) < 2:
        return None
    if subject.is_seq2seq:
        first, second = ids[: len(ids) // 2], ids[len(ids) // 2 :]
        return Rendered(first, [False] * len(first), first, second, len(ids))
    return Rendered(ids, [False] + [True] * (len(ids) - 1), ids[:1], [], len(ids))
