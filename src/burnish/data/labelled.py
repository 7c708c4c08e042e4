"""Rows of a classification: which columns hold text and label, which classes there are, and the rows as tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.core.names import nearest
from burnish.data.config import RenderConfig, SourceConfig
from burnish.data.example import Example
from burnish.data.formats import Plan, check_mapping, source_template
from burnish.data.recheck import TOLERATED, squeezed
from burnish.data.render import Outcome, Rendered, Renderer
from burnish.data.rows import Dropped
from burnish.data.splits import Values
from burnish.data.tokens import Encoder

MOST_CLASSES = 1000
"""More distinct labels than this are a column of texts or numbers, not of classes, unless the recipe lists them."""
_SHOWN = 8


@dataclass(frozen=True)
class Classes:
    """What a classification asks of the preparation of data.

    Attributes:
        labels: Names of the classes, in their order; empty to find them in the training rows.
    """

    labels: tuple[str, ...] = ()


def plan_labelled(source: SourceConfig, columns: Sequence[str]) -> Plan:
    """Decide which columns of a source are the text and the label.

    They are the columns `text` and `label` (or what `columns` maps to them), the templates `prompt` and `completion`,
    or the columns of these names.

    Args:
        source: What the recipe says.
        columns: The columns of all rows.

    Raises:
        UserError: There are no such columns, or the source holds conversations.
    """
    check_mapping(source, columns)
    present = set(columns) - set(source.columns.values()) | set(source.columns)
    templates = {
        "text": source_template(source, "prompt", columns),
        "label": source_template(source, "completion", columns),
    }
    known = {name for name in ("text", "label") if name in present or templates[name]}
    named = not any(templates.values()) and {"prompt", "completion"} <= present
    if source.format not in ("auto", "classification", "prompt_completion"):
        fix = "leave `format` to `auto`, and map the columns: `columns: {text: …, label: …}`"
        raise UserError(f"format `{source.format}` holds no labels to classify by", where=source.path, fix=fix)
    if source.format == "prompt_completion" or (known != {"text", "label"} and named):
        return Plan("prompt_completion", "there are columns `prompt` and `completion`", False, source.columns)
    if known != {"text", "label"}:
        absent = next(name for name in ("text", "label") if name not in known)
        near = nearest("sentiment" if absent == "label" else absent, [c for c in columns if c not in ("text", "label")])
        raise UserError(
            f"a classification needs a column `{absent}`; there is none",
            where=f"{source.path} has: {', '.join(columns)}",
            fix=f"map it: `columns: {{{absent}: {near[0] if near else 'THEIR_COLUMN'}}}`, or give a template",
        )
    why = "the recipe has templates" if any(templates.values()) else "there are columns for `text` and `label`"
    return Plan("classification", why, False, source.columns, templates["text"], templates["label"])


def settle_labels(classes: Classes, parts: Mapping[str, Values]) -> tuple[str, ...]:
    """The names of the classes: those of the recipe, or all that the training rows have, sorted.

    Numbers are sorted as numbers.

    Args:
        classes: What the recipe asks for.
        parts: The labels of the rows of each split.

    Raises:
        UserError: Fewer than two, too many to be classes, or a row whose label is none of them.
    """
    labels = classes.labels
    if not labels:
        found = parts["train"].distinct()
        if len(found) > MOST_CLASSES:
            raise UserError(
                f"the training rows have {len(found):,} different labels, such as `{sorted(found)[0][:40]}`",
                where="data.train",
                fix="map the column of the classes, or list them all in `task.labels`",
            )
        labels = sort_labels(found)
    if len(labels) < 2:
        shown = f"only `{labels[0]}`" if labels else "none"
        raise UserError(f"a classification needs two classes, and the training rows have {shown}", where="data.train")
    _refuse_unknown(labels, parts, given=bool(classes.labels))
    return labels


def sort_labels(found: Iterable[str]) -> tuple[str, ...]:
    """Labels in the order of their numbers, or of their letters."""
    return tuple(sorted(found, key=_by_value))


def _by_value(label: str) -> tuple[int, float, str]:
    try:
        value = float(label)
    except ValueError:
        return (1, 0.0, label)
    return (0, value, label) if math.isfinite(value) else (1, 0.0, label)  # `nan` has no place in an order


def _refuse_unknown(labels: Sequence[str], parts: Mapping[str, Values], *, given: bool) -> None:
    wrong = {name: values.at(values.outside(labels)) for name, values in parts.items()}
    wrong = {name: values for name, values in wrong.items() if len(values.codes)}
    if not wrong:
        return
    part, first = next(iter(wrong.items()))
    count = sum(len(values.codes) for values in wrong.values())
    values = sorted({label[:40] for rows in wrong.values() for label in rows.distinct()})
    shown = ", ".join(f"`{v}`" for v in values[:_SHOWN]) + (" …" if len(values) > _SHOWN else "")
    of = "`task.labels`" if given else "the labels of the training rows"
    raise UserError(
        f"{count:,} rows have a label that is none of {of}: {shown}",
        where=f"data.{part}, row {first.names[0]}",
        fix="mend these rows, or " + ("add the label to" if given else "list every class in") + " `task.labels`",
    )


@dataclass(frozen=True)
class Frame:
    """The special tokens that a tokenizer puts around two texts, and where its second token type begins.

    Attributes:
        prefix: Before the first text.
        middle: Between the texts.
        suffix: Behind the second.
        typed: Whether tokens from the second text on have a type of their own.
    """

    prefix: list[int] = field(default_factory=list)
    middle: list[int] = field(default_factory=list)
    suffix: list[int] = field(default_factory=list)
    typed: bool = False

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Frame:
        """Read off what the tokenizer makes of a pair of equal texts."""
        text = list(tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"])
        both = tokenizer("a", "a", verbose=False)
        ids, n = list(both["input_ids"]), len(text)
        places = [i for i in range(len(ids) - n + 1) if ids[i : i + n] == text]
        if len(places) < 2:
            return cls()
        first, second = places[0], places[-1]
        typed = 1 in list(both.get("token_type_ids") or [])
        return cls(ids[:first], ids[first + n : second], ids[second + n :], typed)


class LabelledRenderer(Renderer):
    """Texts as a tokenizer frames single texts and pairs (`[CLS] … [SEP]`), each with the number of its class.

    A text that is too long is cut at its end, and of a pair the longer one first; the frame stays whole.

    Args:
        tokenizer: The model's tokenizer.
        config: Length, and what to do with longer rows.
        labels: Names of the classes.
    """

    task = "classification"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig, labels: Sequence[str]) -> None:
        self.tokenizer, self.config, self.kind = tokenizer, config, "encoder"
        self.encoder = Encoder(tokenizer)
        self.labels = tuple(labels)
        self._numbers = {label: i for i, label in enumerate(self.labels)}
        self._double = Frame.of(tokenizer)
        self._alone = Frame(self.encoder.prefix, [], self.encoder.suffix)

    def render_all(self, examples: Sequence[Example]) -> list[Outcome]:
        """Render many examples at once; each gives tokens, a reason to drop it, or a fault."""
        firsts = self.encoder.encode_batch([e.prompt or "" for e in examples])
        seconds = iter(self.encoder.encode_batch([e.pair for e in examples if e.pair is not None]))
        return [
            self._row(example, first, next(seconds) if example.pair is not None else None)
            for example, first in zip(examples, firsts, strict=True)
        ]

    def prompt_ids(self, prompt: object, tools: object = None) -> list[int]:
        """Token ids of one text, as the model saw texts in training."""
        example = Example("", prompt=str(prompt), completion=self.labels[0])
        return self.render(example).input_ids

    def _row(self, example: Example, first: list[int], second: list[int] | None) -> Outcome:
        frame = self._alone if second is None else self._double
        framed = len(frame.prefix) + len(frame.middle) + len(frame.suffix)
        length = framed + len(first) + len(second or [])
        if not length:
            return Dropped(example.id, "the text has no tokens")
        if length > self.config.max_length:
            refusal = self._too_long(example, length)
            if refusal is not None:
                return refusal
        room = max(1, self.config.max_length - framed)
        if second is None:
            first = first[:room]
        elif len(first) + len(second) > room:
            kept = min(len(first), max(room - len(second), room - room // 2))
            first, second = first[:kept], second[: room - kept]
        head = frame.prefix + first + frame.middle
        ids = head + (second or []) + frame.suffix
        typed_from = len(head) if second is not None and frame.typed else len(ids)
        marks = self._remarks(f"{example.prompt}{example.pair or ''}")
        return Rendered(ids, [False] * len(ids), ids[:typed_from], [], length, 0, marks, **self._target(example))

    def _target(self, example: Example) -> dict[str, Any]:
        """What the head learns of a row, as fields of ``Rendered``."""
        return {"label": self._numbers[self.class_of(example)]}

    def class_of(self, example: Example) -> str:
        """The name of an example's class, one of ``labels``."""
        return example.label


def class_counts(labels: Sequence[str], numbers: NDArray[np.int64]) -> dict[str, int]:
    """How many rows each class has."""
    counts = np.bincount(numbers, minlength=len(labels))
    return {label: int(n) for label, n in zip(labels, counts, strict=True)}


def class_findings(labels: Sequence[str], counts: Mapping[str, int], *, given: bool) -> list[Finding]:
    """The classes as they were found, and those that no training row has."""
    total = sum(counts.values())
    shown = ", ".join(f"{name} {counts[name]:,}" for name in labels[:12]) + (" …" if len(labels) > 12 else "")
    top = max(labels, key=lambda name: counts[name])
    origin = "given in the recipe" if given else "found in the training rows and sorted"
    findings = [
        Finding(
            "note",
            "data.classes",
            f"{len(labels)} classes, {origin}: {shown}; `{top}` has {counts[top] / max(1, total):.1%} of the rows",
            where="task.labels",
            evidence={"counts": dict(counts)},
        )
    ]
    absent = [name for name in labels if not counts[name]]
    if absent:
        findings.append(
            Finding(
                "warning",
                "data.class-without-rows",
                f"{len(absent)} of {len(labels)} classes have no training row: {', '.join(absent[:_SHOWN])}",
                where="task.labels",
                why="Nothing teaches the model to answer with them.",
                fix="give rows of these classes, or leave them out of `task.labels`",
            )
        )
    return findings


def absent_findings(splits: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Classes that training has and a held-out split lacks: nothing there measures them."""
    train, found = splits["train"]["classes"], []
    for name, split in splits.items():
        absent = [label for label, count in split["classes"].items() if train[label] and not count]
        if name != "train" and absent and any(split["classes"].values()):
            what = f"no {name} row has the class {', '.join(f'`{label}`' for label in absent[:_SHOWN])}"
            why = "Nothing there measures it, and a mean over classes leaves it out."
            fix = "hold out more rows, or equal shares: `data.split.stratify`"
            found.append(Finding("note", "data.class-not-held-out", what, f"data.{name}", why, fix))
    return found


def recheck_labelled(
    name: str, sample: Sequence[tuple[Example, Rendered]], renderer: LabelledRenderer
) -> list[Finding]:
    """Decode some rows of a split again and hold them, and their classes, against their examples.

    Args:
        name: The split.
        sample: Evenly spaced examples of it, and the same rendered.
        renderer: What rendered them.
    """
    wrong: dict[str, list[str]] = {}
    for example, row in sample:
        if row.label is None or renderer.labels[row.label] != renderer.class_of(example):
            wrong.setdefault("label", []).append(example.id)
        if not row.truncated and not _says(example, row, renderer.tokenizer):
            wrong.setdefault("text", []).append(example.id)
    findings = []
    for fault, ids in wrong.items():
        if fault == "label" or len(ids) > TOLERATED * len(sample):
            what = (
                f"in {len(ids)} of {len(sample)} {name} rows that were decoded again, the {fault} is not the example's"
            )
            why = "The model would learn from rows that nobody wrote."
            fix = "look at them with `burnish inspect`"
            evidence = {"rows": len(ids), "of": len(sample), "first": ids[:20]}
            findings.append(Finding("stop", f"render.other-{fault}", what, ids[0], why, fix, evidence))
    return findings


def _says(example: Example, row: Rendered, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokens say what the example says; texts that do not come back are not judged."""
    decoded = squeezed(tokenizer.decode(row.input_ids, skip_special_tokens=True))
    texts = [t for t in (example.prompt, example.pair) if t]
    return all(squeezed(t) in decoded for t in texts if _comes_back(t, tokenizer))


def _comes_back(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return squeezed(tokenizer.decode(ids, skip_special_tokens=True)) == squeezed(text)
