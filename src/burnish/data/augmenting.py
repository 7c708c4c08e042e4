"""New training rows made of those that there are: what makes them is passed in, what becomes of them is settled here.

Rows are changed after the split, so that nothing held out is touched. A new row is dropped, and counted, where it
equals its source, where its prompt is that of any row of any split, and where another new row has it already.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Any, Protocol

import numpy as np

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.data.augment_config import AugmentConfig
from burnish.data.duplicates import Hashes, find_leaks, first_equal, hashes_of
from burnish.data.example import Example

GROUP = 256
"""Rows that a method is given at a time, however the files are read."""
SHOWN = 5
LISTED = 1000


@dataclass(frozen=True)
class Source:
    """A training row, as a method sees it.

    Attributes:
        text: The text to change.
        label: The name of its class; empty where it has none.
        draw: Random numbers of this row and this method alone.
    """

    text: str
    label: str
    draw: random.Random


@dataclass(frozen=True)
class Variant:
    """What a method made of a row: the new text, and what was changed, as JSON objects."""

    text: str
    changes: Sequence[Mapping[str, Any]] = ()


class Method(Protocol):
    """A kind of augmentation, ready to be used.

    Attributes:
        name: What the recipe's entry is called in names of rows: its kind, numbered where there are several.
        config: Its settings.
        seed: Seed of what it draws.
    """

    name: str
    config: Any
    seed: int

    def fingerprint(self) -> Any:
        """What else decides about its rows, such as a model's hash; JSON values."""

    def variants(self, rows: Sequence[Source]) -> list[list[Variant]]:
        """New texts for each row: at most as many as the recipe asks for, fewer where it found none."""


@dataclass
class Count:
    """What a method came to.

    Attributes:
        sources: Rows that it was given.
        unfit: Rows whose text could not be found in their prompt.
        none: New texts that were asked for and not found.
        unchanged: New texts that equal their source.
        copies: New rows whose prompt there is already, in any split, or that another new row has.
        unrendered: New rows that gave no tokens to learn from.
        added: Rows that are trained on.
        shown: Some of them.
    """

    sources: int = 0
    unfit: int = 0
    none: int = 0
    unchanged: int = 0
    copies: int = 0
    unrendered: int = 0
    added: int = 0
    shown: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Growth:
    """Makes the new rows of a training split.

    Attributes:
        methods: The kinds, in the order of the recipe.
        counts: What each came to.
    """

    methods: Sequence[Method]
    counts: dict[str, Count] = field(default_factory=dict)

    def run(self, rows: Iterable[Example], taken: Hashes) -> list[Example]:
        """The new rows, those of one group of sources together.

        Args:
            rows: The training rows.
            taken: Hashes of the prompts of all rows of all splits.

        Raises:
            UserError: The rows hold no text that could be changed.
        """
        self.counts = {method.name: Count() for method in self.methods}
        made: list[Example] = []
        waiting = iter(rows)
        while group := list(islice(waiting, GROUP)):
            for method in self.methods:
                made += self._grow(method, group)
        return self._without_copies(made, taken)

    def rendered(self, kept: Sequence[Example], made: Sequence[Example]) -> None:
        """Take note of the new rows that became tokens, of those that were made."""
        ids = {example.id for example in kept}
        for example in made:
            count = self.counts[trace_of(example)["entry"]]
            if example.id not in ids:
                count.unrendered += 1
                continue
            count.added += 1
            if len(count.shown) < SHOWN:
                count.shown.append({"id": example.id, **trace_of(example)})

    def summary(self, kept: Sequence[Example]) -> dict[str, Any]:
        """For `data.json`: every kind with its settings and counts, and where the first new rows come from."""
        kinds = []
        for method in self.methods:
            settings = {**method.config.model_dump(mode="json"), "seed": method.seed}
            kinds.append({"entry": method.name, "settings": settings, **vars(self.counts[method.name])})
        rows = [{"id": example.id, **trace_of(example)} for example in kept[:LISTED]]
        return {"added": len(kept), "kinds": kinds, "rows": rows}

    def findings(self) -> list[Finding]:
        """What each kind added and dropped."""
        return [_finding(method, self.counts[method.name]) for method in self.methods]

    def _grow(self, method: Method, group: Sequence[Example]) -> list[Example]:
        count, config = self.counts[method.name], method.config
        chosen: list[tuple[Example, str, Source]] = []
        for example in group:
            draw = draw_for(method.seed, method.name, example.id)
            if draw.random() >= config.share:
                continue
            text = text_of(example, config.column)
            if text is None:
                count.unfit += 1
                continue
            chosen.append((example, text, Source(text, example.label, draw)))
        count.sources += len(chosen)
        found = method.variants([source for _, _, source in chosen]) if chosen else []
        made = []
        for (example, text, _), variants in zip(chosen, found, strict=True):
            count.none += config.copies - len(variants)
            for number, variant in enumerate(variants, 1):
                if " ".join(variant.text.split()) == " ".join(text.split()):
                    count.unchanged += 1
                else:
                    made.append(_new(example, text, variant, method, number))
        return made

    def _without_copies(self, made: list[Example], taken: Hashes) -> list[Example]:
        if not made:
            return []
        hashes = hashes_of(example.prompt_key for example in made)
        names = range(len(made))
        there = find_leaks(hashes, taken, names, range(len(taken)))  # type: ignore[arg-type]  # only places are asked
        stays = first_equal(hashes) == np.arange(len(made))
        stays[there.rows] = False
        for example, stay in zip(made, stays, strict=True):
            self.counts[trace_of(example)["entry"]].copies += not stay
        return [example for example, stay in zip(made, stays, strict=True) if stay]


def draw_for(seed: int, name: str, row: str) -> random.Random:
    """Random numbers that follow from seed, method and row, and from nothing else."""
    digest = blake2b(f"{seed}\0{name}\0{row}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))


def text_of(example: Example, column: str | None) -> str | None:
    """The text of a row that may be changed; None where it is not found exactly once in the prompt.

    Raises:
        UserError: It is not clear what may be changed.
    """
    if example.messages is not None or example.text is not None or example.prompt is None:
        raise UserError(
            "only rows with a prompt and a target can be augmented; this one is a conversation or plain text",
            where=f"data.augment, row {example.id}",
            fix="leave out `data.augment`, or give a classification or rows of prompt and completion",
        )
    if column is None:
        return example.prompt
    if column not in example.fields:
        raise UserError(
            f"there is no column `{column}` to augment",
            where=f"data.augment.column, row {example.id}",
            fix="one of: " + ", ".join(f"`{name}`" for name in example.fields),
        )
    value = str(example.fields[column])
    return value if value and example.prompt.count(value) == 1 else None


def trace_of(example: Example) -> dict[str, Any]:
    """Where a new row comes from."""
    trace: dict[str, Any] = example.fields["augmented"]
    return trace


def _new(example: Example, text: str, variant: Variant, method: Method, number: int) -> Example:
    trace = {
        "source": example.id,
        "entry": method.name,
        "kind": method.config.kind,
        "seed": method.seed,
        "before": text,
        "after": variant.text,
        "changes": [dict(change) for change in variant.changes],
    }
    prompt = (example.prompt or "").replace(text, variant.text, 1) if method.config.column else variant.text
    return Example(
        id=f"{method.name}.{number} of {example.id}",
        prompt=prompt,
        completion=example.completion,
        pair=example.pair,
        fields={"augmented": trace},
    )


def _finding(method: Method, count: Count) -> Finding:
    dropped = [
        f"{n:,} {what}"
        for n, what in (
            (count.none, "were not found"),
            (count.unchanged, "equal their source"),
            (count.copies, "equal another row"),
            (count.unrendered, "have nothing to learn from"),
            (count.unfit, "rows do not hold the text of the column once"),
        )
        if n
    ]
    what = f"`{method.name}` made {count.added:,} new training rows of {count.sources:,}"
    return Finding(
        "note" if count.added else "warning",
        "data.augmented" if count.added else "data.augmented-nothing",
        what + (f" ({', '.join(dropped)})" if dropped else ""),
        where="data.augment",
        why="" if count.added else "The recipe asks for new rows and none was added.",
        fix="" if count.added else "loosen the settings of this kind, or leave it out",
        evidence={k: v for k, v in vars(count).items() if k != "shown"},
    )


def entry_names(entries: Sequence[AugmentConfig]) -> list[str]:
    """What the entries of a recipe are called: their kind, with a number from the second of its kind on."""
    seen: dict[str, int] = {}
    names = []
    for entry in entries:
        kind: str = entry.kind  # type: ignore[attr-defined]  # every member of the union has one
        seen[kind] = seen.get(kind, 0) + 1
        names.append(kind if seen[kind] == 1 else f"{kind}-{seen[kind]}")
    return names
