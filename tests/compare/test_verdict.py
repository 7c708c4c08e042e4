"""Halving and the verdict on synthetic scores: a known winner is found, and ties leave the rule standing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from burnish.compare.halving import Stop, stops
from burnish.compare.race import Stand
from burnish.compare.statistics import Scored
from burnish.compare.trials import Trial
from burnish.compare.variants import Variant
from burnish.compare.verdict import Verdict, course, decide, untested

ROWS = 200
LABELS = ("rule", "b", "c", "d", "e")


class Synthetic:
    """Trials whose answers are right with a known probability at every share; some fail."""

    def __init__(self, right: dict[str, float], *, slow: tuple[str, ...] = (), fails: tuple[str, ...] = ()) -> None:
        self.right, self.slow, self.fails = right, slow, fails
        self.stands: dict[str, dict[int, dict[float, Stand]]] = {}
        self.failures: dict[str, str] = {}
        self.asked: list[tuple[str, int, float]] = []

    def advance(self, trial: Trial, share: float) -> Stand | None:
        """Rows that are right with the label's probability; slow ones are at chance before their end."""
        label = trial.variant.label
        self.asked.append((label, trial.seed, share))
        if label in self.fails:
            self.failures[label] = "memory ran out"
            return None
        draw = np.random.default_rng([LABELS.index(label), trial.seed, int(1000 * share)])
        true = np.arange(ROWS) % 2
        chance = 0.5 if label in self.slow and share < 1 else self.right[label]
        predicted = np.where(draw.random(ROWS) < chance, true, 1 - true)
        rows = Scored(tuple(map(str, range(ROWS))), np.ones(ROWS), np.ones(ROWS), true, predicted, 2)
        stand = Stand(round(100 * share), 100, 8, share == 1.0, rows)
        self.stands.setdefault(label, {}).setdefault(trial.seed, {})[share] = stand
        return stand


def raced(racer: Synthetic, labels: tuple[str, ...] = LABELS, seeds: int = 3) -> Verdict:
    """A race over these labels with two finalists."""
    trials = {
        label: tuple(Trial(Variant(label, ()), seed, {}, Path(label)) for seed in range(seeds)) for label in labels
    }
    planned = stops(len(labels), 2, 3.0, 0.25)
    ended = course(trials, "rule", planned, seeds, "macro_f1", racer)
    return decide(labels, "rule", ended, "macro_f1", racer)


def test_a_clear_winner_overturns_the_rule() -> None:
    """0.9 against 0.6 of 200 rows and three seeds: a difference of 0.3 with a standard error near 0.03. Both come to
    their end with every seed; the others end at the stop."""
    racer = Synthetic({"rule": 0.6, "b": 0.6, "c": 0.9, "d": 0.55, "e": 0.5})
    found = raced(racer)
    assert (found.kind, found.method, found.rests_on) == ("overturned", "c", "trials")
    assert [pair.first for pair in found.pairs] == ["c"] and found.pairs[0].difference.low > 0.15
    assert sorted(ask for ask in racer.asked if ask[2] == 1.0) == [(x, s, 1.0) for x in ("c", "rule") for s in range(3)]
    assert "overturn it: c is better" in found.words()[0] and "interval" in found.words()[1]
    assert [line.label for line in found.lines[:2]] == ["c", "rule"] and found.lines[0].seeds == 3


def test_the_rule_goes_on_also_where_it_is_slow_and_is_confirmed() -> None:
    """At chance up to the stop, where it would be out, and at 0.9 in the end, against 0.6: the rule is confirmed."""
    found = raced(Synthetic({"rule": 0.9, "b": 0.6, "c": 0.58, "d": 0.57, "e": 0.56}, slow=("rule",)))
    assert (found.kind, found.method, found.rests_on) == ("confirmed", "rule", "both")
    assert "confirm it" in found.words()[0] and "+0.3" in found.words()[1]


@pytest.mark.parametrize("right", [0.5, 0.8])
def test_ties_leave_the_rule_standing(right: float) -> None:
    """All are alike, so that the best of the others is so by chance: its interval holds zero."""
    found = raced(Synthetic(dict.fromkeys(LABELS, right)))
    assert (found.kind, found.method, found.rests_on) == ("undecided", "rule", "rule")
    pair = found.pairs[0]
    assert pair.difference.low < 0 < pair.difference.high
    assert "cannot tell it from" in found.words()[0] and "the rule stands" in found.words()[0]


def test_equal_answers_are_a_tie() -> None:
    """The very same rows: no variance at all, a difference of exactly zero, and the rule stands."""
    racer = Synthetic(dict.fromkeys(LABELS, 1.0))
    found = raced(racer, ("rule", "b"))
    assert found.kind == "undecided" and found.pairs[0].difference.value == 0


def test_false_alarms_are_rare() -> None:
    """Of 20 races of equals, 5 % are overturned or confirmed by chance: at most 4 with probability 0.997."""
    kinds = [raced_with(Synthetic({"rule": 0.7, "b": 0.7}), number).kind for number in range(20)]
    assert sum(kind != "undecided" for kind in kinds) <= 4


def raced_with(racer: Synthetic, number: int) -> Verdict:
    """Two that came to their end with three seeds of their own."""
    for label in ("rule", "b"):
        for seed in range(3 * number, 3 * number + 3):
            racer.advance(Trial(Variant(label, ()), seed, {}, Path(label)), 1.0)
    return decide(("rule", "b"), "rule", ("rule", "b"), "macro_f1", racer)


def test_a_failed_candidate_does_not_end_the_rest() -> None:
    """One that fails is out, with its reason; where the rule's own fails, the best of the others is recommended."""
    found = raced(Synthetic({"rule": 0.6, "c": 0.9, "d": 0.5, "e": 0.5}, fails=("b",)))
    assert found.method == "c" and next(x for x in found.lines if x.label == "b").why_not == "memory ran out"
    without = raced(Synthetic({"b": 0.6, "c": 0.9, "d": 0.5, "e": 0.5}, fails=("rule",)))
    assert (without.kind, without.method, without.rests_on) == ("failed", "c", "trials")
    assert "memory ran out" in without.words()[1]
    nothing = raced(Synthetic({}, fails=LABELS))
    assert (nothing.kind, nothing.method) == ("failed", "rule") and "not tested" in nothing.words()[0]
    alone = raced(Synthetic({"rule": 0.6}, fails=("b",)), ("rule", "b"))
    assert (alone.kind, alone.method) == ("alone", "rule")


def test_without_trials_the_rule_says_so() -> None:
    assert untested("lora").words() == ["The rule says lora; nothing was tried, so this rests on the rule alone."]


def test_one_stop_ends_all_but_the_rule_and_the_best() -> None:
    """Five candidates with one seed to a quarter; of the four that are not the rule's the best goes on."""
    racer = Synthetic({"rule": 0.5, "b": 0.6, "c": 0.7, "d": 0.8, "e": 0.9})
    trials = {label: (Trial(Variant(label, ()), 0, {}, Path(label)),) for label in LABELS}
    assert course(trials, "rule", [Stop(0.25, 2)], 1, "macro_f1", racer) == ["e", "rule"]
    assert [ask for ask in racer.asked if ask[2] == 0.25] == [(label, 0, 0.25) for label in LABELS]
