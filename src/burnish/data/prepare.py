"""The whole way from the recipe's `data:` to token tables: read, convert, clean, split, render."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.data import duplicates as duplicate
from burnish.data import findings as says
from burnish.data.config import DataConfig, SourceConfig
from burnish.data.conversations import Fault
from burnish.data.example import Example
from burnish.data.formats import convert, plan_source
from burnish.data.labelled import (
    Classes,
    LabelledRenderer,
    class_counts,
    class_findings,
    plan_labelled,
    recheck_labelled,
    settle_labels,
)
from burnish.data.recheck import recheck
from burnish.data.render import Kind, Rendered, Renderer
from burnish.data.rows import BadRow, Dropped, refuse_bad_rows
from burnish.data.sources import read_source
from burnish.data.splits import choose_rows, split_examples
from burnish.data.summary import source_summary, split_summary
from burnish.data.table import TokenTable

SPLITS = ("train", "validation", "test")
_MOST_DROPPED = 1000


@dataclass(frozen=True)
class Prepared:
    """The data of a run.

    Attributes:
        train: Rows to learn from.
        validation: Rows to choose by; empty if none were asked for.
        test: Rows to measure on; empty if none were asked for.
        examples: The examples of each split, one per row of its table and in its order.
        findings: What there is to say; one of severity ``stop`` refuses the run (`core.findings.refuse_stops`).
        summary: All of it as JSON, for `data.json`.
        dropped: The rows of each split that were left out, with the reason.
        renderer: What made the tokens, for prompts that are to look the same.
    """

    train: TokenTable
    validation: TokenTable
    test: TokenTable
    examples: dict[str, list[Example]]
    findings: list[Finding]
    summary: dict[str, Any]
    dropped: dict[str, list[Dropped]]
    renderer: Renderer

    def table(self, split: str) -> TokenTable:
        """The table of a split by its name."""
        tables = {"train": self.train, "validation": self.validation, "test": self.test}
        if split not in tables:
            raise UserError(f"there is no split `{split}`", fix="one of: " + ", ".join(f"`{s}`" for s in SPLITS))
        return tables[split]


@dataclass
class _State:
    """What is being prepared: the examples of each split, and what was noted on the way."""

    parts: dict[str, list[Example]] = field(default_factory=lambda: {name: [] for name in SPLITS})
    dropped: dict[str, list[Dropped]] = field(default_factory=lambda: {name: [] for name in SPLITS})
    findings: list[Finding] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    duplicates: dict[str, dict[str, int]] = field(default_factory=dict)
    leaks: dict[str, int] = field(default_factory=dict)

    def step(self, name: str, needed: Sequence[str]) -> None:
        """Note the counts after a step, and refuse a needed split that it emptied."""
        self.steps.append({"step": name, **{part: len(rows) for part, rows in self.parts.items()}})
        for part in needed:
            if not self.parts[part]:
                trail = " → ".join(f"{s['step']} {s[part]:,}" for s in self.steps)
                reasons = "; ".join(dict.fromkeys(d.reason for d in self.dropped[part][:5]))
                raise UserError(
                    f"the {part} set is empty after the step `{name}`" + (f": {reasons}" if reasons else ""),
                    where=f"data.{part}: rows after each step: {trail}",
                    fix=_CURES.get(name, "give more rows"),
                )


_CURES = {
    "convert": "give rows with a prompt and a target, or map the columns in the recipe",
    "duplicates": "give rows that differ, or set `data.duplicates: keep`",
    "split": "ask for other amounts under `data.split`",
    "leaks": "give evaluation rows of their own, or set `data.on_leak: warn`",
    "render": "raise `data.render.max_length`, or give rows with a target",
}


def prepare(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    seed: int,
    base: Path | None = None,
    *,
    classes: Classes | None = None,
) -> Prepared:
    """Read, convert, clean, split and render the data of a run. Equal arguments and files give equal tables.

    Args:
        config: The recipe's `data:`.
        tokenizer: The model's tokenizer with its chat template.
        kind: ``causal`` or ``seq2seq``.
        seed: The run's seed.
        base: Folder that relative paths start at; the working folder if None.
        classes: What a classification asks for; None to learn text.

    Raises:
        UserError: A source or a row is wrong (all wrong rows at once), or a set is or becomes empty.
    """
    state = _State()
    needed = [name for name in SPLITS if name == "train" or _wanted(config, name)]
    given = [name for name in needed if name == "train" or getattr(config, name) is not None]
    _load(state, config, base, labelled=classes is not None)
    state.step("convert", given)
    for name in given:
        _deduplicate(state, name, config)
    state.step("duplicates", given)
    held = {"validation": config.validation is None, "test": config.test is None}
    parts = split_examples(state.parts["train"], config.split, seed=seed, **held)
    state.parts |= {name: rows for name, rows in parts.items() if name == "train" or held[name]}
    state.step("split", needed)
    _remove_leaks(state, config)
    state.step("leaks", needed)
    if config.train_rows is not None:
        _choose(state, config.train_rows, seed)
    renderer = _renderer(state, config, tokenizer, kind, classes)
    rendered = _render(state, renderer)
    tables = {n: TokenTable.build([e.id for e in state.parts[n]], rendered[n]) for n in SPLITS}
    state.step("render", needed)
    for name in SPLITS:
        state.findings += says.render_findings(name, rendered[name], state.dropped[name], config)
        state.findings += _look_again(name, state.parts[name], rendered[name], renderer)
    summary = _summary(state, config, seed, tables, rendered, tokenizer)
    if isinstance(renderer, LabelledRenderer):
        for name, table in tables.items():
            summary["splits"][name]["classes"] = class_counts(renderer.labels, table.labels)
            for shown, number in zip(summary["splits"][name]["shown"], table.labels, strict=False):
                shown["label"] = renderer.labels[number]
        counts = summary["splits"]["train"]["classes"]
        state.findings += class_findings(renderer.labels, counts, given=bool(classes and classes.labels))
    return Prepared(
        tables["train"],
        tables["validation"],
        tables["test"],
        state.parts,
        state.findings,
        summary,
        state.dropped,
        renderer,
    )


def _wanted(config: DataConfig, name: str) -> bool:
    return getattr(config, name) is not None or bool(getattr(config.split, name))


def _renderer(
    state: _State, config: DataConfig, tokenizer: PreTrainedTokenizerBase, kind: Kind, classes: Classes | None
) -> Renderer:
    if classes is None:
        return Renderer(tokenizer, config.render, kind)
    return LabelledRenderer(tokenizer, config.render, settle_labels(classes, state.parts))


def _look_again(name: str, examples: Sequence[Example], rows: Sequence[Rendered], renderer: Renderer) -> list[Finding]:
    if isinstance(renderer, LabelledRenderer):
        return recheck_labelled(name, examples, rows, renderer)
    return recheck(name, examples, rows, renderer.tokenizer, renderer.config)


def _load(state: _State, config: DataConfig, base: Path | None, *, labelled: bool) -> None:
    """Read and convert every source; the wrong rows of all of them are refused at once."""
    sources: list[tuple[str, SourceConfig]] = [("train", s) for s in config.train_sources]
    sources += [(name, s) for name in SPLITS[1:] if (s := getattr(config, name)) is not None]
    reads = [(part, source, read_source(source, base)) for part, source in sources]
    names = short_names([f.path for _, _, read in reads for f in read.files])
    bad: list[BadRow] = []
    for part, source, read in reads:
        bad += read.bad
        if not read.rows:
            continue
        plan = plan_labelled(source, read.rows) if labelled else plan_source(source, read.rows, config.render.chat)
        converted = convert(read.rows, plan, names)
        bad += converted.bad
        state.parts[part] += converted.examples
        state.dropped[part] += converted.dropped
        state.sources.append(source_summary(part, source, read, plan, len(converted.dropped)))
        state.findings += says.source_findings(source, read, plan)
    state.steps.append({"step": "read", **{n: sum(len(r.rows) for p, _, r in reads if p == n) for n in SPLITS}})
    refuse_bad_rows(bad)


def short_names(files: Sequence[str]) -> dict[str, str]:
    """Files by their path below the folder that all of them share; names that are no paths stay as they are."""
    paths = sorted({f for f in files if os.path.isabs(f)})
    if not paths:
        return {}
    common = os.path.commonpath([os.path.dirname(p) for p in paths])
    return {p: Path(os.path.relpath(p, common)).as_posix() for p in paths}


def _deduplicate(state: _State, name: str, config: DataConfig) -> None:
    found = duplicate.find_duplicates(state.parts[name])
    state.duplicates[name] = {
        "copies": len(found.copies),
        "repeated_prompts": found.repeated_prompts,
        "conflicting_prompts": len(found.conflicts),
    }
    state.findings += says.duplicate_findings(name, found, config)
    if config.duplicates == "drop":
        state.parts[name] = found.unique


def _remove_leaks(state: _State, config: DataConfig) -> None:
    """Compare each split with those that are measured on after it; the measured set is the one that keeps the row."""
    for part, other in (("validation", "test"), ("train", "validation"), ("train", "test")):
        leaks = duplicate.find_leaks(state.parts[part], state.parts[other])
        if not leaks:
            continue
        state.leaks[f"{part} in {other}"] = len(leaks)
        state.findings.append(says.leak_finding(part, other, leaks, config.on_leak))
        if config.on_leak == "drop":
            state.parts[part] = [e for e in state.parts[part] if e.id not in leaks]


def _choose(state: _State, count: int, seed: int) -> None:
    there = len(state.parts["train"])
    if count > there:
        state.findings.append(
            Finding(
                "warning",
                "data.fewer-rows",
                f"`data.train_rows` asks for {count:,} rows, but training has {there:,}",
                where="data.train_rows",
                fix="Ask for fewer, or give more.",
                evidence={"asked": count, "rows": there},
            )
        )
    state.parts["train"] = choose_rows(state.parts["train"], count, seed=seed)
    state.step("train_rows", ["train"])


def _render(state: _State, renderer: Renderer) -> dict[str, list[Rendered]]:
    """Tokens of every split; rows that cannot be rendered are refused together, those without a target dropped."""
    bad: list[BadRow] = []
    rendered: dict[str, list[Rendered]] = {}
    for name in SPLITS:
        kept: list[Example] = []
        rendered[name] = []
        for example, outcome in zip(state.parts[name], renderer.render_all(state.parts[name]), strict=True):
            if isinstance(outcome, Fault):
                file, _, line = example.id.rpartition(":")
                bad.append(BadRow(file, int(line), outcome.field, outcome.expected, outcome.found, outcome.fix))
            elif isinstance(outcome, Dropped):
                state.dropped[name].append(outcome)
            else:
                kept.append(example)
                rendered[name].append(outcome)
        state.parts[name] = kept
    refuse_bad_rows(bad, what="when they were rendered")
    return rendered


def _summary(
    state: _State,
    config: DataConfig,
    seed: int,
    tables: Mapping[str, TokenTable],
    rendered: Mapping[str, Sequence[Rendered]],
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    dropped = [{"split": name, **d.to_json()} for name in SPLITS for d in state.dropped[name]]
    return {
        "sources": state.sources,
        "steps": state.steps,
        "split": {
            "seed": config.split.seed if config.split.seed is not None else seed,
            "group": config.split.group,
            "stratify": config.split.stratify,
        },
        "splits": {n: split_summary(tables[n], rendered[n], state.dropped[n], tokenizer) for n in SPLITS},
        "duplicates": state.duplicates,
        "leaks": state.leaks,
        "n_dropped": len(dropped),
        "dropped": dropped[:_MOST_DROPPED],
        "render": config.render.model_dump(mode="json"),
    }
