"""The replayed rows of a recipe: general texts, files, rows of earlier runs, the model's own answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    config: RunConfig, prepared: Prepared, tokenizer: PreTrainedTokenizerBase, kind: Kind
) -> tuple[ReplayRows, list[Finding]] | None:
    """The rows that a recipe replays, and what there is to say of them; None where it replays none.

    Args:
        config: The recipe.
        prepared: The rows of its task; none of its held-out rows is replayed.
        tokenizer: The model's tokenizer.
        kind: Kind of the model.

    Raises:
        UserError: A head is trained and the model cannot learn to write beside it, or an origin has no rows.
    """
    settings = config.data.replay
    if settings is None:
        return None
    refuse_heads(config)
    found = list(_origins(config, settings, tokenizer, kind))
    held_out = {e.prompt_key for name in ("validation", "test") for e in prepared.examples[name]}
    parts, kept, start = [], [], 0
    for one in found:
        allowed = [i for i, example in enumerate(one.examples) if example.prompt_key not in held_out]
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
    table = joined([one.table for one in found])
    rows = ReplayRows(settings, table, tuple(parts), _summary(settings, table, found, parts, kept, tokenizer))
    return rows, [*(f for one in found for f in one.findings), *_notes(found, kept)]


def refuse_heads(config: RunConfig) -> None:
    """Refuse replay in a job that trains a head beside a model without its own.

    Raises:
        UserError: It does.
    """
    if config.classifies:
        raise UserError(
            f"`data.replay` mixes in text that the model learns to write, and `task: {config.task.kind}` trains a head "
            "on a model that has no head of its own to write with",
            where="data.replay",
            fix="keep what the model knew with `regularizers: [{name: l2_sp}]` or `[{name: distill}]`, or with "
            "`burnish interpolate` after the training",
        )


def _origins(
    config: RunConfig, settings: ReplayConfig, tokenizer: PreTrainedTokenizerBase, kind: Kind
) -> Iterator[_Found]:
    if settings.built_in == "general":
        if kind == "seq2seq":
            raise UserError(
                "the general texts that come with Burnish are plain text, and an encoder-decoder learns from a prompt "
                "and a completion",
                where="data.replay",
                fix="set `data.replay.source=self`, or name rows with `prompt` and `completion` in `data.replay.path`",
            )
        general = SourceConfig(path=str(TEXTS), format="text", txt_rows="paragraph")
        yield _of_source("general", "general texts of Burnish", general, config, tokenizer, kind)
    if settings.built_in == "self":
        file = own_answers(config, tokenizer, kind)
        yield _of_source("self", str(file), SourceConfig(path=str(file)), config, tokenizer, kind)
    for number, source in enumerate(settings.path, 1):
        name = f"path {number}" if len(settings.path) > 1 else "path"
        yield replace(_of_source(name, source.path, source, config, tokenizer, kind), weight=source.weight)
    for path in settings.runs:
        yield _of_run(Path(path), settings, config, tokenizer, kind)


def _of_source(
    name: str, path: str, source: SourceConfig, config: RunConfig, tokenizer: PreTrainedTokenizerBase, kind: Kind
) -> _Found:
    render = config.data.render.model_copy(update={"on_too_long": "truncate", "max_truncated_share": 1.0})
    plain = SourceConfig(**{n: getattr(source, n) for n in SourceConfig.model_fields if n != "task"})
    made = _prepared(DataConfig(train=plain, split=SplitConfig(validation=0), render=render), tokenizer, kind, 0)
    return _found(name, path, made.train, list(made.examples["train"]), made.findings)


def _of_run(
    path: Path, settings: ReplayConfig, config: RunConfig, tokenizer: PreTrainedTokenizerBase, kind: Kind
) -> _Found:
    """Some of the rows that an earlier run was trained on, in the tokens of this run's model."""
    earlier = read_recipe(open_run(path))
    if earlier.classifies:
        raise UserError(
            f"the run `{path.name}` trained a head (`task: {earlier.task.kind}`), so its rows have no text to write",
            where="data.replay.runs",
            fix="name runs of `task: text`",
        )
    render: RenderConfig = earlier.data.render.model_copy(update={"max_length": config.data.render.max_length})
    data = earlier.data.model_copy(update={"augment": (), "replay": None, "render": render})
    made = _prepared(data, tokenizer, kind, earlier.seed)
    examples, choice = list(made.examples["train"]), settings.earlier
    groups = [e.target_text if choice.choose == "balanced" else "" for e in examples]
    chosen = kept_rows(groups, choice.rows, config.seed).tolist()
    return _found(f"run {path.name}", str(path), made.train.take(chosen), [examples[i] for i in chosen], made.findings)


def _prepared(data: DataConfig, tokenizer: PreTrainedTokenizerBase, kind: Kind, seed: int) -> Prepared:
    try:
        return prepare(data, tokenizer, kind, seed)
    except UserError as error:
        raise UserError(error.what, where=f"data.replay: {error.where}", fix=error.fix) from error


def _found(name: str, path: str, table: TokenTable, examples: Sequence[Any], findings: Sequence[Finding]) -> _Found:
    plain = replace(table, tasks=table.tasks[:0], task_names=())
    told = tuple(replace(f, where=f"data.replay: {f.where}") for f in findings if f.severity != "note")
    return _Found(name, path, plain, examples, findings=told)


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
