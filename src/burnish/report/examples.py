"""Rows of text for the page: answers that were won and lost, generations before and after, rows with their mask."""

from __future__ import annotations

from bisect import insort_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish.report.numbers import DASH, decimal, number, share
from burnish.report.read import Run, mapping, objects

SHOWN = 5
LONGEST = 4000


@dataclass(frozen=True)
class Answered:
    """A held-out row with both answers, and what stands beside each: its probability or its loss."""

    id: str
    prompt: str
    target: str
    base: str
    tuned: str
    base_note: str
    tuned_note: str


@dataclass(frozen=True)
class Group:
    """Rows of one kind.

    Attributes:
        title: Which rows.
        total: How many there are.
        order: By what the shown ones were chosen.
        rows: The shown ones.
    """

    title: str
    total: int
    order: str
    rows: list[Answered]


def visible(text: Any) -> str:
    """Text for the page: cut where it is very long, control characters as their symbols.

    Lone surrogates, which no file can hold, become the replacement character.
    """
    plain = text if isinstance(text, str) else DASH if text is None else str(text)
    more = len(plain) - LONGEST
    if more > 0:
        plain = plain[:LONGEST] + f"… ({more:,} more characters)"
    return visible_whole(plain)


def answer(text: Any) -> str:
    """An answer without the white space around it, and a word for one that says nothing."""
    if not isinstance(text, str):
        return "" if text is None else visible(text)
    return visible(text.strip()) or "(empty)"


def visible_whole(text: str) -> str:
    """As ``visible``, uncut."""
    return "".join(_VISIBLE.get(c, c) for c in text).encode("utf-8", "replace").decode()


_VISIBLE = {chr(c): chr(0x2400 + c) for c in range(32) if chr(c) not in "\n\t"} | {"\x7f": "␡", "\r": "␍"}
# marks that turn the direction of what follows them could make a text read as another one
_VISIBLE |= {chr(c): f"[U+{c:04X}]" for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


class _First:
    """How many rows there are, and the first few of them by a key; those that came first before their equals."""

    def __init__(self, most: int = SHOWN) -> None:
        self.most, self.total = most, 0
        self.found: list[tuple[float, Mapping[str, Any]]] = []

    def add(self, key: float, row: Mapping[str, Any]) -> None:
        self.total += 1
        insort_right(self.found, (key, row), key=lambda one: one[0])
        del self.found[self.most :]

    def group(self, title: str, order: str) -> Group:
        return Group(title, self.total, order, [_answered(row) for _, row in self.found])


def answer_groups(run: Run) -> list[Group]:
    """Answers won and lost; without answers, the rows whose loss fell and rose most. The rows are read once."""
    answers, won, lost, fell, rose = _First(2 * SHOWN), _First(), _First(), _First(), _First()
    unjudged = sure = changes = False
    for row in run.predictions:
        if _both(row, "predicted"):
            answers.add(0.0, row)
            unjudged = unjudged or _unjudged(row)
            before, after = _right(row, "base"), _right(row, "tuned")
            if before != after:
                probability = number(mapping(row["tuned"]).get("probability"))
                sure = sure or probability is not None
                (won if after else lost).add(-(probability or 0.0), row)
        change = _loss_change(row)
        if change is not None and _both(row, "loss"):
            changes = True
            if change:
                (fell if change < 0 else rose).add(-abs(change), row)
    if unjudged:
        return [answers.group("Answers", "the first in the file")]
    if answers.total:
        order = "those the tuned model is surest of" if sure else "the first in the file"
        return [won.group("Wrong before, right after", order), lost.group("Right before, wrong after", order)]
    order = "those where it changed most"
    return [fell.group("Loss fell", order), rose.group("Loss rose", order)] if changes else []


def _both(row: Mapping[str, Any], key: str) -> bool:
    return all(mapping(row.get(name)).get(key) is not None for name in ("base", "tuned"))


def _loss_change(row: Mapping[str, Any]) -> float | None:
    before, after = (number(mapping(row.get(name)).get("loss")) for name in ("base", "tuned"))
    return None if before is None or after is None else after - before


def _unjudged(row: Mapping[str, Any]) -> bool:
    """Whether an answer is a number, which is near or far and not right or wrong."""
    return any(mapping(row.get(name)).get("right", True) is None for name in ("base", "tuned"))


def _right(row: Mapping[str, Any], model: str) -> bool:
    known = mapping(row.get(model)).get("right")
    if isinstance(known, bool):
        return known
    return str(mapping(row.get(model)).get("predicted")).strip() == str(row.get("target")).strip()


def _answered(row: Mapping[str, Any]) -> Answered:
    base, tuned = mapping(row.get("base")), mapping(row.get("tuned"))
    target, before, after = (
        answer(text) for text in (row.get("target"), base.get("predicted"), tuned.get("predicted"))
    )
    return Answered(
        visible(row.get("id")), visible(row.get("prompt")), target, before, after, _note(base), _note(tuned)
    )


def _note(answer: Mapping[str, Any]) -> str:
    if number(answer.get("probability")) is not None:
        return f"probability {share(answer['probability'], 0)}"
    return f"loss {decimal(answer.get('loss'))}" if number(answer.get("loss")) is not None else ""


def samples(run: Run) -> list[dict[str, str]]:
    """Generations before and after."""
    forms = {"id": visible, "prompt": visible, "target": answer, "base": answer, "tuned": answer}
    return [{key: form(row.get(key)) for key, form in forms.items()} for row in run.samples]


def marked_rows(run: Run) -> list[dict[str, Any]]:
    """Training rows as the model sees them, in stretches that are trained or not."""
    train = mapping(mapping(run.data.get("splits")).get("train"))
    return [
        {
            "id": visible(row.get("id")),
            "label": visible(row.get("label")) if row.get("label") is not None else "",
            "spans": [(visible(s.get("text")), s.get("trained") is True) for s in objects(row.get("spans"))],
        }
        for row in objects(train.get("shown"))
    ]
