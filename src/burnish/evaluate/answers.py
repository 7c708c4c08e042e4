"""Extractive question answering scored by its head: the likeliest stretches of the context, over all its windows."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from burnish.core.findings import Finding
from burnish.data.example import Example
from burnish.data.kept import Codec, JsonWriter, shelved
from burnish.data.spans import Places, SpanRenderer
from burnish.evaluate.classes import head_of
from burnish.evaluate.deal import ByRow
from burnish.evaluate.head_rows import HeadResult, HeadRows, Part, answered, head_passes
from burnish.evaluate.intervals import Floats
from burnish.evaluate.loss import Progress, RowLosses, View
from burnish.evaluate.measures import Columns, Measures, mean_of
from burnish.evaluate.squad import best_of, best_threshold
from burnish.ops.units import by_row

MOST_TOKENS, BEST = 30, 5
NOTHING = 1e9
"""The gap of a context without tokens, which no threshold is above."""
SPAN_MEASURES: Measures = {"exact_match": mean_of("exact"), "token_f1": mean_of("f1")}
"""As SQuAD's script gives them, 0 to 1."""


@dataclass(frozen=True, order=True)
class Span:
    """A stretch of a context.

    Attributes:
        score: Sum of the logits of its ends.
        first: Its first token, in the context.
        last: Its last.
    """

    score: float
    first: int
    last: int


@dataclass(frozen=True)
class Found:
    """What was found for one question.

    Attributes:
        spans: The likeliest answers, the best first.
        none: Score of no answer: the lowest of all windows, since one that holds the answer is enough.
    """

    spans: list[Span]
    none: float

    @property
    def gap(self) -> float:
        """How much likelier no answer is than the best one."""
        return self.none - self.spans[0].score if self.spans else NOTHING


_FOUND: Codec[Found] = Codec(
    lambda found: [[[s.score, s.first, s.last] for s in found.spans], found.none],
    lambda values: Found([Span(*one) for one in values[0]], values[1]),
)


def best_spans(starts: Floats, ends: Floats, most_tokens: int, best: int) -> list[Span]:
    """The ``best`` spans by ``start_i + end_j`` with ``i <= j < i + most_tokens``, over all pairs.

    Args:
        starts: [T] logits of the first token.
        ends: [T] logits of the last token.
        most_tokens: Longest span.
        best: How many.
    """
    count = len(starts)
    width = min(most_tokens, count)
    if not count:
        return []
    filled = np.concatenate([ends, np.full(width - 1, -np.inf)])
    sums = starts[:, None] + np.lib.stride_tricks.sliding_window_view(filled, width)
    chosen = np.argsort(-sums, axis=None, kind="stable")[:best]
    pairs = [divmod(int(place), width) for place in chosen]
    return [Span(float(sums[i, k]), i, i + k) for i, k in pairs if np.isfinite(sums[i, k])]


def find_answers(
    view: View, rows: HeadRows, progress: Progress | None = None
) -> tuple[RowLosses, Iterator[list[tuple[Example, Places, Found]]]]:
    """Loss of every window; what was found for each question, with the tokens of its context, some at a time."""
    renderer, table, settings = rows.renderer, rows.table, head_of(view.loaded).settings
    assert isinstance(renderer, SpanRenderer)
    most, best = int(settings.get("max_answer_tokens", MOST_TOKENS)), int(settings.get("best", BEST))
    losses, order = RowLosses.empty(len(table)), array("q")
    with shelved() as shelf:
        found = JsonWriter(shelf, "found", _FOUND)
        for one in head_passes(view, table, losses, progress):
            logits = by_row(one.logits, one.batch).double().cpu().numpy()
            for place, row in enumerate(one.rows):
                _, _, begin, end, before = table.numbers(np.asarray([row]))[0].astype(int)
                here = best_spans(logits[place, begin:end, 0], logits[place, begin:end, 1], most, best)
                moved = [Span(s.score, int(s.first + before), int(s.last + before)) for s in here]
                found.append([Found(moved, float(logits[place, 0].sum()))])
            order.extend(one.rows)
        known = view.deal.gathered(sorted(order), found.finish(order))
    return losses.over_all(view), _merged(renderer, rows, known, best)


def _merged(
    renderer: SpanRenderer, rows: HeadRows, found: ByRow[Found], best: int
) -> Iterator[list[tuple[Example, Places, Found]]]:
    for groups in rows.groups():
        places = renderer.context_places([example for example, _ in groups])
        yield [
            (example, tokens, merge([found[row] for row in own], best))
            for (example, own), tokens in zip(groups, places, strict=True)
        ]


def merge(parts: Sequence[Found], best: int) -> Found:
    """What the windows of one context found, together; a span that several see counts with its highest score."""
    highest: dict[tuple[int, int], Span] = {}
    for span in (s for part in parts for s in part.spans):
        known = highest.get((span.first, span.last))
        highest[span.first, span.last] = max(span, known) if known else span
    spans = sorted(highest.values(), key=lambda s: (-s.score, s.first, s.last))[:best]
    return Found(spans, min(part.none for part in parts))


def answer_of(example: Example, tokens: Places, found: Found, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a question as JSON values: text, place, probability, and the n best.

    Probabilities are over the n best, and no answer where there may be one.
    """
    may_lack = bool(settings.get("no_answer"))
    scores = np.asarray([s.score for s in found.spans] + [found.none] * may_lack)
    shares = np.exp(scores - scores.max()) if len(scores) else scores
    shares = shares / shares.sum() if len(scores) else shares
    options = [_option(example.pair or "", tokens, s, p) for s, p in zip(found.spans, shares, strict=False)]
    threshold = settings.get("threshold")
    none = may_lack and found.gap > (0.0 if threshold is None else float(threshold))
    if none or not options:
        chosen = {"text": "", "start": None, "end": None, "probability": float(shares[-1]) if may_lack else 0.0}
    else:
        chosen = options[0]
    if may_lack:
        options = [*options, {"text": "", "start": None, "end": None, "probability": float(shares[-1])}]
    return {**chosen, "predicted": chosen["text"], "best": sorted(options, key=lambda o: -o["probability"])}


def _option(context: str, tokens: Places, span: Span, share: float) -> dict[str, Any]:
    start, end = tokens[span.first][1], tokens[span.last][2]
    text = context[start:end]
    start += len(text) - len(text.lstrip())
    return {"text": text.strip(), "start": start, "end": start + len(text.strip()), "probability": float(share)}


def score_answers(view: View, rows: HeadRows, progress: Progress | None = None) -> tuple[RowLosses, HeadResult]:
    """Loss of every window, and the answer to every question."""
    settings = head_of(view.loaded).settings
    losses, found = find_answers(view, rows, progress)

    def parts() -> Iterator[Part]:
        for some in found:
            told = [_judged(*one, settings) for one in some]
            yield {name: [columns[name] for columns, _ in told] for name in told[0][0]}, [row for _, row in told]

    return losses, HeadResult.of(rows.renderer.task, parts())


def _judged(
    example: Example, tokens: Places, one: Found, settings: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, Any]]:
    """What the measures need of one question, and its row."""
    answer = answer_of(example, tokens, one, settings)
    exact, f1 = best_of(answer["predicted"], example.items)
    plain = answer_of(example, tokens, one, {**settings, "no_answer": False})["predicted"]
    columns = {
        "exact": exact,
        "f1": f1,
        "given": float(bool(example.items)),
        "gap": one.gap,
        "plain_f1": best_of(plain, example.items)[1],
    }
    target = " / ".join(dict.fromkeys(example.items)) or "(no answer)"
    return columns, answered(example, {**answer, "right": bool(exact)}, target)


def span_tables(columns: Columns, labels: tuple[str, ...]) -> dict[str, Any]:
    """The scores of questions with and without an answer apart, where there are both."""
    given = columns["given"] > 0
    if given.all() or not given.any():
        return {}
    parts = {"with an answer": given, "without an answer": ~given}
    return {
        "by_answer": {
            name: {
                "rows": int(on.sum()),
                "exact_match": float(columns["exact"][on].mean()),
                "token_f1": float(columns["f1"][on].mean()),
            }
            for name, on in parts.items()
        }
    }


def choose_threshold(
    columns: Columns, settings: Mapping[str, Any], labels: tuple[str, ...]
) -> tuple[dict[str, Any], list[Finding]]:
    """The threshold of no answer that gives the highest F1 on these rows, where there may be none."""
    if not settings.get("no_answer"):
        return {}, []
    given = columns["given"]
    if given.all() or not given.any():
        what = "the threshold for no answer stays 0: the validation rows hold only one kind of question"
        return {}, [Finding("warning", "evaluate.threshold", what, "data.validation", fix="hold out both kinds")]
    value = best_threshold(columns["gap"], columns["plain_f1"], given)
    value = value if np.isfinite(value) else float(columns["gap"].min()) - 1.0
    what = f"a question is said to have no answer where that scores {value:+.3g} above the best one"
    return {"threshold": value}, [
        Finding("note", "evaluate.threshold", f"{what}: chosen on the validation rows", "task")
    ]
