"""Slices: the exact test against scipy, and a planted weakness that is found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from burnish.evaluate.slices import SMALLEST, slices


@pytest.mark.parametrize("seed", range(8))
def test_p_values_are_fishers(seed: int) -> None:
    draw = np.random.default_rng(seed)
    wrong = draw.random(200) < 0.3
    trait = [str(v) for v in draw.integers(0, 3, 200)]
    for one in slices({"trait": trait}, wrong.tolist()):
        inside = np.asarray(trait) == one.value
        table = [[(wrong & inside).sum(), (~wrong & inside).sum()], [(wrong & ~inside).sum(), (~wrong & ~inside).sum()]]
        assert one.p_value == pytest.approx(fisher_exact(table, alternative="greater").pvalue)
        assert one.rest == pytest.approx(wrong[~inside].mean()) and one.low <= one.rate <= one.high


def test_a_planted_weakness_is_found_and_nothing_else() -> None:
    """60 % errors where the text negates, 10 % elsewhere; twenty traits that have nothing to do with it."""
    draw = np.random.default_rng(0)
    negates = draw.random(600) < 0.2
    wrong = draw.random(600) < np.where(negates, 0.6, 0.1)
    traits = {f"noise {i}": [str(v) for v in draw.integers(0, 2, 600)] for i in range(20)}
    traits["negation"] = ["negates" if n else "does not negate" for n in negates]
    found = [one for one in slices(traits, wrong.tolist()) if one.significant]
    assert [(one.trait, one.value) for one in found] == [("negation", "negates")]
    assert found[0].rows == negates.sum() and found[0].members.tolist() == np.flatnonzero(negates).tolist()


def test_what_is_small_or_says_it_itself_is_counted_and_not_tested() -> None:
    values = ["few"] * (SMALLEST - 1) + ["many"] * 50
    wrong = [True] * (SMALLEST - 1) + [False] * 50
    few = next(one for one in slices({"size": values}, wrong) if one.value == "few")
    assert few.errors == SMALLEST - 1 and np.isnan(few.p_value) and not few.significant
    assert all(np.isnan(one.p_value) for one in slices({"confidence": values}, wrong, untested=("confidence",)))
