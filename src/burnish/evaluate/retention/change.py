"""What is left of what a model knew: per domain and suite, and as one number, with paired bootstrap intervals.

    retention = mean over all domains and suites of r,
    r of a domain = min(1, perplexity before / perplexity after) = min(1, exp(loss before - loss after)),
    r of a suite  = min(1, 1 - (accuracy before - accuracy after)).

1 means that nothing was lost. Each part is cut at 1, so that a gain in one does not pay for a loss in
another; every part counts alike, so that a rare language weighs as much as English. A model whose head is new predicts
no tokens: its r of a domain is the mean cosine between what the head reads of a text before and after.

The intervals draw the rows of each part with replacement, the same for before and after (Efron, 1979; Koehn, 2004).
That of the retention is the basic bootstrap interval, ``[2 t - q97.5, 2 t - q2.5]`` (Davison & Hinkley, 1997, equation
5.6), cut at 1: cutting parts at 1 makes every draw's value a little too small, and this takes that off again.
Shapes: R draws, N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.evaluate.intervals import Floats, mcnemar, wilson
from burnish.evaluate.retention.layers import cosines, linear_cka
from burnish.evaluate.retention.rows import RetentionRows
from burnish.evaluate.retention.score import HEAD, Said
from burnish.evaluate.run import perplexity

RESAMPLES = 1000
MOST_LOST = 40
"""Questions that are written down as lost at most."""
Value = dict[str, float]


@dataclass(frozen=True)
class Draws:
    """Rows of one part and how often each is drawn.

    Attributes:
        weights: [R + 1, N] multiplicities; the first line is the rows as they are.
    """

    weights: Floats

    @classmethod
    def make(cls, rows: int, seed: int, part: int) -> Draws:
        """The rows as they are, and ``RESAMPLES`` draws with replacement."""
        generator = np.random.default_rng([seed, part])
        drawn = generator.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES)
        return cls(np.concatenate([np.ones((1, rows)), drawn]))

    def ratio(self, totals: Floats, counts: Floats) -> Floats:
        """[R + 1] ``sum(totals) / sum(counts)``."""
        return (self.weights @ totals) / np.maximum(self.weights @ counts, 1e-12)

    def mean(self, values: Floats) -> Floats:
        """[R + 1] means."""
        return self.ratio(values, np.ones(len(values)))


def interval(values: Floats) -> Value:
    """The value of the rows as they are, with the 95 % percentile interval of the draws."""
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


@dataclass(frozen=True)
class Part:
    """One domain or suite.

    Attributes:
        retention: [R + 1] its r.
        before: What is told of the original.
        after: What is told of the tuned model.
        change: What is told of both.
    """

    retention: Floats
    before: dict[str, Any]
    after: dict[str, Any]
    change: dict[str, Any]


def describe(rows: RetentionRows, before: Said, after: Said, seed: int) -> dict[str, Any]:
    """The ``retention`` of ``evaluation.json``.

    Args:
        rows: The retention set.
        before: What the original said.
        after: What the tuned model said.
        seed: Seed of the draws.
    """
    read = HEAD in before.vectors
    domain = _read_domain if read else _domain
    domains = {
        name: domain(rows, own, before, after, Draws.make(len(own), seed, number))
        for number, (name, own) in enumerate(rows.domains.items())
    }
    suites = {
        name: _suite(rows, own, before, after, Draws.make(len(own), seed, len(domains) + number))
        for number, (name, own) in enumerate(rows.suites.items())
    }
    score = headline([*domains.values(), *suites.values()])

    def told(side: str, whole: Value) -> dict[str, Any]:
        parts = {"domains": domains, "suites": suites}
        return {"score": whole, **{kind: {n: getattr(p, side) for n, p in ps.items()} for kind, ps in parts.items()}}

    return {
        "measure": "representations" if read else "predictions",
        "texts": len(rows.passages),
        "questions": len(rows.items),
        "tokens": rows.n_tokens,
        "before": told("before", {"value": 1.0, "low": 1.0, "high": 1.0}),
        "after": told("after", score),
        "change": told("change", score) | overall(before, after),
        "layers": layer_rows(before, after),
        "lost": lost(rows, before, after),
    }


def headline(parts: list[Part]) -> Value:
    """The retention with its interval: the mean of every part's r, cut at 1."""
    whole = interval(np.mean([np.minimum(1.0, part.retention) for part in parts], axis=0))
    value = whole["value"]
    return {"value": value, "low": min(1.0, 2 * value - whole["high"]), "high": min(1.0, 2 * value - whole["low"])}


def overall(before: Said, after: Said) -> dict[str, float]:
    """KL and agreement over all tokens of all texts; of what a head reads, CKA."""
    if HEAD in before.vectors:
        return {"cka": linear_cka(before.vectors[HEAD], after.vectors[HEAD])}
    if after.kl is None or after.agrees is None or not len(after.kl):
        return {}
    return {"kl": float(after.kl.mean()), "agreement": float(after.agrees.mean())}


def _domain(rows: RetentionRows, own: list[int], before: Said, after: Said, draws: Draws) -> Part:
    places = rows.places
    stretches = [slice(places[r], places[r + 1]) for r in own]
    counts = np.asarray([places[r + 1] - places[r] for r in own], dtype=np.float64)

    def sums(values: NDArray[Any]) -> Floats:
        return np.asarray([float(values[s].sum()) for s in stretches])

    first, second = sums(before.losses), sums(after.losses)
    difference = draws.ratio(second - first, counts)
    change: dict[str, Any] = {"retention": interval(np.exp(-difference)), "loss": interval(difference)}
    if after.kl is not None and after.agrees is not None:
        change["kl"] = interval(draws.ratio(sums(after.kl), counts))
        change["agreement"] = interval(draws.ratio(sums(after.agrees), counts))
    size = {"texts": len(own), "tokens": int(counts.sum())}
    sides = [_loss(draws.ratio(one, counts)) | size for one in (first, second)]
    return Part(np.exp(-difference), sides[0], sides[1], change)


def _loss(draws: Floats) -> dict[str, Any]:
    loss = interval(draws)
    return {"loss": loss, "perplexity": {name: perplexity(value) for name, value in loss.items()}}


def _read_domain(rows: RetentionRows, own: list[int], before: Said, after: Said, draws: Draws) -> Part:
    cosine = draws.mean(cosines(before.vectors[HEAD][own], after.vectors[HEAD][own]))
    size = {"texts": len(own)}
    return Part(cosine, size, size, {"retention": interval(cosine)})


def right(rows: RetentionRows, said: Said) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The choice that a model finds likeliest of every question, and whether it is the right one."""
    chosen, place = [], 0
    for item in rows.items:
        losses = said.choices[place : place + len(item.choices)]
        chosen.append(int(losses.argmin()))
        place += len(item.choices)
    picked = np.asarray(chosen, dtype=np.int64)
    return picked, picked == np.asarray([item.answer for item in rows.items], dtype=np.int64)


def _suite(rows: RetentionRows, own: list[int], before: Said, after: Said, draws: Draws) -> Part:
    first, second = (right(rows, said)[1][own] for said in (before, after))
    difference = draws.mean(second.astype(np.float64) - first.astype(np.float64))
    sides = []
    for one in (first, second):
        low, high = wilson(int(one.sum()), len(one))
        sides.append({"accuracy": {"value": float(one.mean()), "low": low, "high": high}, "questions": len(own)})
    gone, won = int((first & ~second).sum()), int((second & ~first).sum())
    change = {
        "retention": interval(1 + difference),
        "accuracy": {**interval(difference), "p_value": mcnemar(gone, won)},
        "lost": gone,
        "won": won,
    }
    return Part(1 + difference, sides[0], sides[1], change)


def lost(rows: RetentionRows, before: Said, after: Said) -> list[dict[str, Any]]:
    """The questions that the original answered right and the tuned model does not."""
    if not rows.items:
        return []
    (_, first), (said, second) = right(rows, before), right(rows, after)
    found = [
        {"suite": item.suite, "question": item.question, "answer": item.choices[item.answer], "now": item.choices[now]}
        for item, was, now, holds in zip(rows.items, first, said, second, strict=True)
        if was and not holds
    ]
    return found[:MOST_LOST]


def layer_rows(before: Said, after: Said) -> list[dict[str, Any]]:
    """CKA and mean cosine of every layer's vectors before and after."""
    shared = sorted(layer for layer in before.vectors if layer in after.vectors and layer != HEAD)
    pairs = [(layer, before.vectors[layer], after.vectors[layer]) for layer in shared]
    return [
        {"layer": layer, "cka": linear_cka(one, other), "cosine": float(cosines(one, other).mean())}
        for layer, one, other in pairs
    ]


def between(rows: RetentionRows, before: Said, after: Said) -> dict[str, Any]:
    """What is logged while the training goes on: the retention of some texts, without intervals."""
    values = {name: _now(rows, own, before, after) for name, own in rows.domains.items()}
    mean = float(np.mean([min(1.0, value) for value in values.values()])) if values else float("nan")
    return {"retention": mean, **overall(before, after), "domains": values}


def _now(rows: RetentionRows, own: list[int], before: Said, after: Said) -> float:
    if HEAD in before.vectors:
        return float(cosines(before.vectors[HEAD][own], after.vectors[HEAD][own]).mean())
    tokens = np.concatenate([np.arange(rows.places[r], rows.places[r + 1]) for r in own])
    return float(np.exp(before.losses[tokens].mean() - after.losses[tokens].mean()))


def worst(found: Mapping[str, Any], count: int = 3) -> list[tuple[str, float]]:
    """The domains and suites of which least is left, and how much."""
    change = found["change"]
    parts = {**change["domains"], **change["suites"]}
    values = sorted(((name, one["retention"]["value"]) for name, one in parts.items()), key=lambda pair: pair[1])
    return values[:count]
