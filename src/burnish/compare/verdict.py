"""Does a rule hold on these rows? Candidates are raced on the validation rows, and the rule is tested on the finalists.

Every candidate begins with one seed. Behind each stop of successive halving the better ones go on, the rule's method
always among them, and the finalists are trained to their end with several seeds. There the rule's method is compared
with every other finalist, paired by seed and row, with Holm's correction:

    overturned   another one is significantly better; of several the best
    confirmed    it is significantly better than all others
    undecided    neither: the trials cannot tell them apart, and the rule stands
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from burnish.compare.basis import NAMES, better, settled
from burnish.compare.halving import Stop, survivors
from burnish.compare.race import Stand
from burnish.compare.results import turned
from burnish.compare.standings import value_of
from burnish.compare.statistics import METRICS, Estimate, Pair, Scored, estimate, resampled
from burnish.compare.trials import Trial
from burnish.evaluate.intervals import holm
from burnish.evaluate.resample import Draws

Kind = Literal["confirmed", "overturned", "undecided", "alone", "failed", "untested", "unfinished"]


class Trials(Protocol):
    """What brings trials on: ``racing.Racer``.

    Attributes:
        stands: By label, seed and share.
        failures: Why trials ended early, by label.
    """

    stands: dict[str, dict[int, dict[float, Stand]]]
    failures: dict[str, str]

    def advance(self, trial: Trial, share: float) -> Stand | None:
        """Bring a trial to a share of its updates; None where it failed."""
        ...


@dataclass(frozen=True)
class Line:
    """One candidate.

    Attributes:
        label: Its name.
        value: The metric of the validation rows at its best evaluation, over its seeds; None where it failed.
        seeds: Runs.
        step: Updates that its first seed made.
        total: Updates of a whole trial.
        finalist: Whether it came to its end.
        why_not: Why it failed.
    """

    label: str
    value: Estimate | None = None
    seeds: int = 0
    step: int = 0
    total: int = 0
    finalist: bool = False
    why_not: str = ""

    def to_json(self) -> dict[str, Any]:
        """For a file of results."""
        value = self.value.to_json() if self.value else None
        return {**vars(self), "value": value}


@dataclass(frozen=True)
class Verdict:
    """What the trials say of the rule.

    Attributes:
        kind: See above; ``alone`` where nothing else could be tried, ``failed`` where the rule's method could not be,
            ``untested`` without trials, ``unfinished`` before their end.
        method: What is recommended.
        rule: What the rule says.
        metric: What decided.
        rows: Validation rows.
        lines: Every candidate: the finalists first, the best first.
        pairs: Each other finalist minus the rule's method.
    """

    kind: Kind
    method: str
    rule: str
    metric: str = ""
    rows: int = 0
    lines: tuple[Line, ...] = ()
    pairs: tuple[Pair, ...] = ()

    @property
    def rests_on(self) -> str:
        """``rule`` or ``trials``; ``both`` where they agree."""
        return {"confirmed": "both", "overturned": "trials", "failed": "trials"}.get(self.kind, "rule")

    def words(self) -> list[str]:
        """What may be said, in sentences."""
        return SENTENCES[self.kind](self)

    def to_json(self) -> dict[str, Any]:
        """For a file of results."""
        return {
            "kind": self.kind,
            "rests_on": self.rests_on,
            "method": self.method,
            "rule": self.rule,
            "words": self.words(),
            "metric": self.metric,
            "split": "validation",
            "rows": self.rows,
            "candidates": [line.to_json() for line in self.lines],
            "pairs": [pair.to_json() for pair in self.pairs],
        }


def course(
    trials: Mapping[str, Sequence[Trial]],
    rule: str,
    planned: Sequence[Stop],
    seeds: int,
    metric: str,
    racer: Trials,
    note: Callable[[list[str]], object] = lambda alive: None,
) -> list[str]:
    """Race candidates and return the finalists that came to their end with any seed.

    Args:
        trials: By label, one for each seed; the rule's first.
        rule: The label that always goes on.
        planned: The stops.
        seeds: Of each finalist.
        metric: What decides.
        racer: Brings trials on.
        note: Called after each stretch with the labels that are still in the race.
    """
    alive = list(trials)
    for stop in planned:
        _advance(trials, alive, stop.share, 0, racer, note)
        values = _values(alive, metric, racer)
        kept = survivors(values, stop.kept, METRICS[_metric(metric, racer)][1])
        if rule in values and rule not in kept:
            kept[-1] = rule
        alive = kept
    for seed in range(seeds):
        _advance(trials, alive, 1.0, seed, racer, note)
    return [label for label in alive if _ends(racer, label)]


def _advance(
    trials: Mapping[str, Sequence[Trial]],
    alive: Sequence[str],
    share: float,
    seed: int,
    racer: Trials,
    note: Callable[[list[str]], object],
) -> None:
    for label in alive:
        if label not in racer.failures:
            racer.advance(trials[label][seed], share)
            note(list(alive))


def _metric(metric: str, racer: Trials) -> str:
    """The metric, settled on the rows of the first trial that there is."""
    first = next((s for seeds in racer.stands.values() for shares in seeds.values() for s in shares.values()), None)
    return settled(metric, first.scored if first else None)


def _values(labels: Sequence[str], metric: str, racer: Trials) -> dict[str, float]:
    """Where the first seeds of trials stand now; those that failed are out."""
    found = {}
    for label in labels:
        shares = racer.stands.get(label, {}).get(0, {})
        if shares and label not in racer.failures:
            found[label] = value_of(shares[max(shares)].scored, metric)
    return found


def _ends(racer: Trials, label: str) -> dict[int, Scored]:
    """The rows of every seed that came to its end."""
    return {seed: shares[1.0].scored for seed, shares in racer.stands.get(label, {}).items() if 1.0 in shares}


def decide(labels: Sequence[str], rule: str, finalists: Sequence[str], metric: str, racer: Trials) -> Verdict:
    """Hold the rule against what the trials found.

    Args:
        labels: Every candidate.
        rule: The rule's.
        finalists: Those that came to their end.
        metric: What decides.
        racer: What was found.
    """
    metric = _metric(metric, racer)
    higher = METRICS[metric][1]
    rows = next((len(s.scored.ids) for one in racer.stands.values() for x in one.values() for s in x.values()), 0)
    weights = resampled(rows)
    lines = _lines(labels, finalists, metric, racer, weights)
    ended = [line for line in lines if line.finalist]
    if rule not in finalists:
        return Verdict("failed", ended[0].label if ended else rule, rule, metric, rows, lines)
    pairs = _against(rule, finalists, metric, racer, weights)
    if not pairs:
        return Verdict("alone", rule, rule, metric, rows, lines)
    gain = {pair.first: pair.difference.value * (1 if higher else -1) for pair in pairs}
    better = [pair.first for pair in pairs if pair.significant and gain[pair.first] > 0]
    if better:
        return Verdict("overturned", max(better, key=lambda x: gain[x]), rule, metric, rows, lines, pairs)
    whole = all(pair.significant for pair in pairs)
    return Verdict("confirmed" if whole else "undecided", rule, rule, metric, rows, lines, pairs)


def _against(rule: str, finalists: Sequence[str], metric: str, racer: Trials, weights: Draws) -> tuple[Pair, ...]:
    """Each other finalist minus the rule's, on the seeds that both have."""
    own, found = _ends(racer, rule), dict[str, Estimate]()
    for label in finalists:
        other = _ends(racer, label)
        seeds = sorted(own.keys() & other.keys())
        if label != rule and seeds:
            found[label] = estimate([other[s] for s in seeds], metric, weights, [own[s] for s in seeds])
    adjusted = holm([d.p for d in found.values()])
    return tuple(Pair(name, rule, d, d.p, p) for (name, d), p in zip(found.items(), adjusted, strict=True))


def _lines(
    labels: Sequence[str], finalists: Sequence[str], metric: str, racer: Trials, weights: Draws
) -> tuple[Line, ...]:
    found = []
    for label in labels:
        seeds, why = racer.stands.get(label, {}), racer.failures.get(label, "")
        if not seeds.get(0):
            found.append(Line(label, why_not=why))
            continue
        share = max(seeds[0])
        stand = seeds[0][share]
        runs = [shares[share].scored for shares in seeds.values() if share in shares]
        value = estimate(runs, metric, weights)
        found.append(Line(label, value, len(runs), stand.step, stand.total, label in finalists, why))
    sign = -better(metric)
    key = {line.label: sign * line.value.value if line.value else 0.0 for line in found}
    found.sort(key=lambda line: (not line.finalist, line.value is None, -line.step, key[line.label]))
    return tuple(found)


def _difference(verdict: Verdict, pair: Pair, sign: float = 1.0) -> str:
    d = pair.difference if sign > 0 else turned(pair).difference
    return (
        f"{d.value:+.3f} {NAMES[verdict.metric]} (95 % interval {d.low:+.3f} to {d.high:+.3f}, p = {pair.adjusted:.2g})"
    )


def _confirmed(verdict: Verdict) -> list[str]:
    told = [f"The rule says {verdict.rule}; the trials confirm it."]
    return told + [f"It is better than {p.first} by {_difference(verdict, p, -1)}." for p in verdict.pairs]


def _overturned(verdict: Verdict) -> list[str]:
    pair = next(p for p in verdict.pairs if p.first == verdict.method)
    return [
        f"The rule says {verdict.rule}; the trials overturn it: {verdict.method} is better.",
        f"Difference: {_difference(verdict, pair)}.",
    ]


def _undecided(verdict: Verdict) -> list[str]:
    open_ = [p for p in verdict.pairs if not p.significant]
    names = ", ".join(p.first for p in open_)
    told = [f"The rule says {verdict.rule}; the trials cannot tell it from {names}, so the rule stands."]
    told += [f"{p.first} minus {verdict.rule}: {_difference(verdict, p)}." for p in open_]
    return [*told, "More validation rows, seeds or updates would tell more."]


def _failed(verdict: Verdict) -> list[str]:
    why = next((line.why_not for line in verdict.lines if line.label == verdict.rule), "") or "it came to no end"
    if verdict.method == verdict.rule:
        return [f"The rule says {verdict.rule}; no trial came to its end, so it is not tested.", f"Its trial: {why}."]
    return [
        f"The rule says {verdict.rule}, whose trial failed; of the others {verdict.method} is the best.",
        f"Why it failed: {why}.",
    ]


SENTENCES = {
    "confirmed": _confirmed,
    "overturned": _overturned,
    "undecided": _undecided,
    "failed": _failed,
    "alone": lambda v: [f"The rule says {v.rule}; no other candidate came to its end, so the rule stands untested."],
    "unfinished": lambda v: [f"The rule says {v.rule}; its trials have not come to their end, so it is not tested."],
    "untested": lambda v: [f"The rule says {v.rule}; nothing was tried, so this rests on the rule alone."],
}
"""What is said of each kind."""


def untested(rule: str) -> Verdict:
    """The rule alone."""
    return Verdict("untested", rule, rule)
