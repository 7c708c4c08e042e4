"""What drawings are made of: places for words, marks that share a place, names at the ends of curves."""

from __future__ import annotations

import re

import pytest

from burnish.compare.drawing import dot, group, label, line, sheet, spread, text
from burnish.compare.panel import Panel, Trace, draw_panels


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ([100, 40, 80], [100, 40, 80]),  # far enough apart
        ([50, 50, 50], [50, 64, 78]),  # one below the other, in their order
        ([95, 96, 97], [72, 86, 100]),  # no room below 100: they move up
        ([60, 10], [60, 20]),  # none above 20
    ],
)
def test_words_keep_their_distance(wanted: list[float], found: list[float]) -> None:
    """A gap of 14 between 20 and 100."""
    assert spread(wanted, 14, 20, 100) == found


def test_a_sheet_escapes_words_and_names() -> None:
    parts = [line("rule", 0, 1, 2, 3), group("best", [dot("dot", 1, 2, 4.5), text(1, 2, "a < b", "dim")])]
    svg = sheet(10, 20, 'a "name"', ".more{fill:none}", parts)
    assert 'viewBox="0 0 10 20"' in svg and "a &#34;name&#34;" in svg and "a &lt; b" in svg
    assert ".more{fill:none}" in svg and "prefers-color-scheme:dark" in svg
    assert '<circle class="dot" cx="1.0" cy="2.0" r="4.5"/>' in svg


def test_marks_at_one_place_are_one_line_and_others_have_rows_of_their_own() -> None:
    marks = [(0.01, "suggested"), (0.01, "recipe"), (0.011, "other")]
    svg = draw_panels([Panel("t", "x", [Trace("", [(1e-4, 1.0), (1.0, 2.0)])], log=True, marks=marks)], "n")
    assert svg.count('class="mark"') == 2 and "suggested = recipe" in svg
    rows = [
        float(y) for y, word in re.findall(r'y="([\d.]+)">([a-z =]+)<', svg) if word in ("suggested = recipe", "other")
    ]
    assert rows[1] - rows[0] == 16


def test_a_curve_that_ends_early_is_led_to_its_name() -> None:
    """Only where there are names do panels keep room for them: 52 + 5 * 8 of 900 for five letters, 30 without."""
    named = [Trace("whole", [(1, 1.0), (10, 2.0)]), Trace("early", [(1, 1.0), (3, 1.5)], dots=True)]
    svg = draw_panels([Panel("t", "x", named)], "n")
    assert svg.count('class="lead"') == 1 and svg.count('class="name"') == 2
    bare = draw_panels([Panel("t", "x", [Trace("", [(1, 1.0), (10, 2.0)])])], "n")
    assert 'x2="808.0"' in svg and 'x2="870.0"' in bare


def test_a_name_takes_the_first_corner_that_is_free() -> None:
    """Two points at one place, then a third: right above, right below, left above."""
    taken: list[tuple[float, float, float, float]] = []
    found = [str(label(100, 100, "name", taken)) for _ in range(3)]
    assert 'x="112.0" y="91.0"' in found[0] and 'x="112.0" y="119.0"' in found[1]
    assert 'class="end" x="88.0" y="91.0"' in found[2] and len(taken) == 3


def test_points_that_are_shifted_stay_in_the_frame() -> None:
    """11 pixels apart, the outer ones 10 from the frame's edges, which are at 74 and 870."""
    traces = [
        Trace("", [(0.0, y), (1.0, y)], line=False, dots=True, shift=11.0 * side) for side, y in ((-1, 1.0), (1, 2.0))
    ]
    found = [float(x) for x in re.findall(r'cx="([\d.]+)"', draw_panels([Panel("t", "x", traces)], "n"))]
    assert found == [84, 838, 106, 860]
