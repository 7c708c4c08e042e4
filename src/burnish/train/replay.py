"""The replayed rows of a recipe: general texts, files, rows of earlier runs, the model's own answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.data.config import DataConfig, RenderConfig, ReplayConfig, SourceConfig, SplitConfig
from burnish.data.general import TEXTS
from burnish.data.marking import row_spans
from burnish.data.mixing import Part, kept_rows
from burnish.data.prepare import Prepared, prepare
from burnish.data.render import Kind
from burnish.data.replay import ReplayRows, joined
from burnish.data.table import TokenTable
from burnish.data.tasks import Task as DataTask
from burnish.train.config import RunConfig
from burnish.train.folder import open_run
from burnish.train.handover import read_recipe
from burnish.train.own_answers import own_answers

SHOWN = 2


@dataclass(frozen=True)
class _Found:
    """What one origin gives."""

    name: str
    path: str
    table: TokenTable
    examples: Sequence[Any]
    weight: float = 1.0
    findings: tuple[Finding, ...] = ()


def read_replay(
    config: RunConfig,
    prepared: Prepared,
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    labelled: Callable[[], DataTask] | None = None,
) -> tuple[ReplayRows, list[Finding]] | None:
    """The rows that a recipe replays, and what there is to say of them; None where it replays none.

    Args:
        config: The recipe.
        prepared: The rows of its task; none of its held-out rows is replayed.
        tokenizer: The model's tokenizer.
        kind: Kind of the model.
        labelled: Of a job that trains a head: what is learnt of labelled rows, in the classes of this job.

    Raises:
        UserError: A head is trained and the model cannot learn to write beside it, or an origin has no rows, or rows
            of classes that this job does not know.
    """
    settings = config.data.replay
    if settings is None:
        return None
    refuse_texts(config, settings)
    task = labelled() if labelled is not None else None
    found = list(_Reader(config, tokenizer, kind, task).origins(settings))
    held_out = {_digest(e.prompt_key) for name in ("validation", "test") for e in prepared.examples[name]}
    parts, kept, start = [], [], 0
    for one in found:
        allowed = [i for i, example in enumerate(one.examples) if _digest(example.prompt_key) not in held_out]
        if not allowed:
            raise UserError(
                f"`{one.name}` has no rows to replay"
                + (", since all of them are held out for the evaluation" if len(one.examples) else ""),
                where=f"data.replay ({one.path})",
                fix="name a source with other rows",
            )
        parts.append(Part(one.name, np.asarray(allowed, dtype=np.int64) + start, one.weight))
        kept.append(len(one.examples) - len(allowed))
        start += len(one.table)
    table = replace(joined([one.table for one in found]), task_names=found[0].table.task_names)
    rows = ReplayRows(settings, table, tuple(parts), _summary(settings, table, found, parts, kept, tokenizer))
    return rows, [*(f for one in found for f in one.findings), *_notes(found, kept)]


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def refuse_texts(config: RunConfig, settings: ReplayConfig) -> None:
    """Refuse texts to be written in a job that trains a head beside a model without its own: rows need labels.

    Raises:
        UserError: It is such a job.
    """
    if config.classifies and settings.built_in is not None:
        raise UserError(
            f"`data.replay.source: {settings.built_in}` mixes in text that the model learns to write, and `task: "
            f"{config.task.kind}` trains a head on a model that has no head of its own to write with",
            where="data.replay",
            fix="replay labelled rows: those of an earlier run of the task (`data.replay.runs`) or of a file "
            "(`data.replay.path`); or keep what the model knew with `regularizers: [l2_sp]` or `[distill]`",
        )


@dataclass(frozen=True)
class _Reader:
    """Reads rows for one job, in the tokens of its model.

    Attributes:
        config: The recipe.
        tokenizer: Of its model.
        kind: Kind of its model.
        task: What is learnt of labelled rows; None for text.
    """

    config: RunConfig
    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    task: DataTask | None

    def origins(self, settings: ReplayConfig) -> Iterator[_Found]:
        """Everything that the recipe replays."""
        if settings.built_in == "general":
            if self.kind == "seq2seq":
                raise UserError(
                    "the general texts that come with Burnish are plain text, and an encoder-decoder learns from a "
                    "prompt and a completion",
                    where="data.replay",
                    fix="set `data.replay.source=self`, or name rows with `prompt` and `completion` in "
                    "`data.replay.path`",
                )
            general = SourceConfig(path=str(TEXTS), format="text", txt_rows="paragraph")
            yield self._of_source("general", "general texts of Burnish", general)
        if settings.built_in == "self":
            file = own_answers(self.config, self.tokenizer, self.kind)
            yield self._of_source("self", str(file), SourceConfig(path=str(file)))
        for number, source in enumerate(settings.path, 1):
            name = f"path {number}" if len(settings.path) > 1 else "path"
            yield replace(self._of_source(name, source.path, source), weight=source.weight)
        for path in settings.runs:
            yield self._of_run(Path(path), settings)

    def _of_source(self, name: str, path: str, source: SourceConfig) -> _Found:
        render = self.config.data.render.model_copy(update={"on_too_long": "truncate", "max_truncated_share": 1.0})
        kept = [n for n in SourceConfig.model_fields if n != "task" or self.task is not None]
        plain = SourceConfig(**{n: getattr(source, n) for n in kept})
        made = self._prepared(DataConfig(train=plain, split=SplitConfig(validation=0), render=render), 0)
        return self._found(name, path, made.train, list(made.examples["train"]), made.findings)

    def _of_run(self, path: Path, settings: ReplayConfig) -> _Found:
        """Some of the rows that an earlier run was trained on, in the tokens and classes of this run."""
        earlier = read_recipe(open_run(path))
        if earlier.task.head != self.config.task.head:
            raise UserError(
                f"the run `{path.name}` learnt `task: {earlier.task.kind}`, and this one learns `task: "
                f"{self.config.task.kind}`, so its rows have nothing that this one could learn",
                where="data.replay.runs",
                fix=f"name runs of `task: {self.config.task.kind}`",
            )
        render: RenderConfig = earlier.data.render.model_copy(update={"max_length": self.config.data.render.max_length})
        data = earlier.data.model_copy(update={"augment": (), "replay": None, "render": render})
        made = self._prepared(data, earlier.seed)
        examples, choice = list(made.examples["train"]), settings.earlier
        groups = [e.target_text if choice.choose == "balanced" else "" for e in examples]
        chosen = kept_rows(groups, choice.rows, self.config.seed).tolist()
        rows = [examples[i] for i in chosen]
        return self._found(f"run {path.name}", str(path), made.train.take(chosen), rows, made.findings)

    def _prepared(self, data: DataConfig, seed: int) -> Prepared:
        try:
            return prepare(data, self.tokenizer, self.kind, seed, task=self.task)
        except UserError as error:
            raise UserError(error.what, where=f"data.replay: {error.where}", fix=error.fix) from error

    def _found(
        self, name: str, path: str, table: TokenTable, examples: Sequence[Any], findings: Sequence[Finding]
    ) -> _Found:
        told = tuple(replace(f, where=f"data.replay: {f.where}") for f in findings if f.severity != "note")
        return _Found(name, path, self._named(table), examples, findings=told)

    def _named(self, table: TokenTable) -> TokenTable:
        """The table with the tasks of this job: text that is replayed is of none, labelled rows stay of theirs."""
        names = self.config.data.tasks
        if self.task is None or not names:
            return replace(table, tasks=table.tasks[:0], task_names=())
        places = {name: number for number, name in enumerate(names)}
        moved = np.asarray([places.get(name, -1) for name in table.task_names] + [-1], dtype=np.int16)
        numbers = table.tasks if len(table.tasks) else np.full(len(table), -1, dtype=np.int16)
        return replace(table, tasks=moved[numbers], task_names=names)


def _summary(
    settings: ReplayConfig,
    table: TokenTable,
    found: Sequence[_Found],
    parts: Sequence[Part],
    kept: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    lengths, trained = table.lengths, table.trained_counts
    return {
        "ratio": list(settings.ends),
        "unit": settings.unit,
        "weight": settings.weight,
        "sha256": table.content_hash(),
        "parts": [
            {
                "name": part.name,
                "path": one.path,
                "weight": part.weight,
                "rows": len(part.rows),
                "held_out_rows": left_out,
                "tokens": int(lengths[part.rows].sum()),
                "trained_tokens": int(trained[part.rows].sum()),
                "shown": [
                    {"id": table.ids[i], "spans": [s.to_json() for s in row_spans(tokenizer, table, i)]}
                    for i in part.rows[:SHOWN].tolist()
                ],
            }
            for part, one, left_out in zip(parts, found, kept, strict=True)
        ],
    }


def _notes(found: Sequence[_Found], kept: Sequence[int]) -> Iterator[Finding]:
    for one, left_out in zip(found, kept, strict=True):
        if left_out:
            rows = "1 row" if left_out == 1 else f"{left_out:,} rows"
            what = f"{rows} of `{one.name}` are held out for the evaluation, and are not replayed"
            yield Finding("note", "replay.held-out", what, where="data.replay")
