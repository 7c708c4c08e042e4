"""The front between task and retention on points made by hand, and the advice that follows from them."""

from __future__ import annotations

import pytest

from burnish.compare.front import Option, advise, places
from burnish.compare.plane import draw
from burnish.compare.retained import headline
from burnish.compare.statistics import Estimate


def at(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half, (value,))


def option(label: str, task: float, kept: float, *, half: tuple[float, float] = (0.02, 0.005)) -> Option:
    return Option(label, at(task, half[0]), at(kept, half[1]))


POINTS = [
    option("plain", 0.72, 0.95),
    option("replay", 0.71, 0.995),
    option("gentle", 0.60, 0.999),
    option("noisy", 0.70, 0.993),  # beaten by replay, within both intervals
    option("bad", 0.50, 0.94),  # beaten by plain and by replay, far from both
]


def test_the_front_by_hand() -> None:
    """plain has the best task, gentle keeps the most, and nothing beats replay in both; the other two are beaten: bad
    by more than the intervals, noisy by less (0.71 - 0.02 < 0.70 + 0.02 and 0.995 - 0.005 < 0.993 + 0.005)."""
    found = places(POINTS, "macro_f1")
    assert [label for label, place in found.items() if place.on_front] == ["plain", "replay", "gentle"]
    assert (found["noisy"].beaten_by, found["noisy"].clearly) == ("replay", False)
    assert (found["bad"].beaten_by, found["bad"].clearly) == ("plain", True)


def test_less_loss_is_better() -> None:
    """The same in a loss: 0.5 beats 0.7."""
    found = places([option("low", 0.5, 0.99), option("high", 0.7, 0.99)], "loss")
    assert found["low"].on_front and found["high"].beaten_by == "low" and found["high"].clearly


def test_equal_options_share_the_front() -> None:
    assert all(place.on_front for place in places([option("a", 0.7, 0.99), option("b", 0.7, 0.99)], "loss").values())


@pytest.mark.parametrize(
    ("tolerance", "label", "within", "sure"),
    [
        (0.10, "plain", True, True),  # 0.95 is enough: the best task
        (0.01, "replay", True, True),  # 0.995 - 0.005 = 0.99 with its whole interval
        (0.006, "replay", True, False),  # 0.995 by its value; gentle would be sure, and is clearly worse in the task
        (0.002, "gentle", True, False),
        (0.0005, "gentle", False, False),  # nothing keeps so much: the most
    ],
)
def test_the_advice(tolerance: float, label: str, within: bool, sure: bool) -> None:
    advice = advise(POINTS, "macro_f1", tolerance, plain="plain")
    assert advice is not None
    assert (advice.label, advice.within, advice.sure) == (label, within, sure)


def test_a_sure_one_is_taken_before_one_that_is_hardly_better() -> None:
    """risky is better in the task by 0.005 of 0.02; its interval of retention leaves the tolerance."""
    found = advise([option("risky", 0.715, 0.992), option("safe", 0.71, 0.998)], "macro_f1", 0.01)
    assert found is not None and found.label == "safe" and found.sure


def test_the_words_carry_the_evidence() -> None:
    """plain loses 0.05 and replay 0.005, so 90 % of it is won back, for 0.010 of the task."""
    advice = advise(POINTS, "macro_f1", 0.01, plain="plain")
    assert advice is not None
    said = " ".join(advice.words)
    assert "lose at most 1 %" in said and "`replay`: macro-F1 0.710 (0.690 to 0.730), 99.5% kept" in said
    assert "wins back 90% of what that loses, and gives up 0.010 of the task" in said
    alone = advise([Option("one", at(0.7, 0.1))], "accuracy", 0.01)
    assert alone is not None and "not measured" in alone.words[0]
    assert advise([], "loss", 0.01) is None


def test_the_drawing_holds_every_option_and_escapes_it() -> None:
    points = [*POINTS, option("<b>&", 0.7, 0.97)]
    svg = draw(points, places(points, "macro_f1"), "macro_f1", tolerance=0.01, taken="replay")
    assert svg.count('class="point"') == 6 and svg.count('class="taken"') == 1 and "&lt;b&gt;&amp;" in svg
    assert "prefers-color-scheme:dark" in svg and 'class="edge"' in svg
    assert draw([Option("x", at(1, 0))], {}, "loss", tolerance=0.01) == ""


def test_the_headline_is_found_where_it_stands() -> None:
    """As the one number, inside of the report of a run, or absent."""
    number = {"value": 0.98, "low": 0.97, "high": 0.99}
    for found in (number, {"retention": number}, {"change": {"score": number}}):
        kept = headline(found)
        assert kept is not None and (kept.value, kept.low, kept.high) == (0.98, 0.97, 0.99)
    assert headline(None) is None and headline({"change": {}}) is None


def test_a_plain_way_that_loses_too_much_is_not_said_to_need_nothing() -> None:
    """Alone, plain keeps the most (0.95), which is less than the 0.99 that are to be kept."""
    advice = advise([option("plain", 0.72, 0.95)], "macro_f1", 0.01, plain="plain")
    assert advice is not None and not advice.within
    assert advice.words[0].startswith("None of these loses as little as 1 %")
    assert advice.words[1:] == ("That is the plain way: no means that was tried keeps more.",)
