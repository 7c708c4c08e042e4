"""Charts: coordinates by hand, ticks, gaps, spikes."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.ticks import log_ticks, ticks
from burnish.report.charts import Frame, Series, fit, line_chart, smooth, thin
from burnish.report.curves import curves
from burnish.report.read import Run


def test_two_points_by_hand() -> None:
    """The small drawing is 360 by 210 with margins left 54, right 14, top 14, bottom 38: 292 by 158 are left.

    The values 2 and 4 are ticks (2, 2.5, ... 4), so they lie on the lower edge, 210 - 38 = 172, and the upper, 14; the
    steps 1 and 3 lie on the left edge, 54, and the right, 360 - 14 = 346.
    """
    chart = line_chart("Loss", [Series("training", [(1, 2.0), (3, 4.0)])])
    assert chart is not None
    assert 'd="M54.0 172.0L346.0 14.0"' in chart.svg
    assert 'aria-label="Loss: training from 2 at 1 to 4 at 3."' in chart.svg
    data = json.loads(chart.data)
    assert data["x"] == [1, 3] and data["frame"] == [54, 346, 360] and data["range"] == [1, 3]
    assert data["series"] == [{"name": "training", "style": "smooth", "y": [2.0, 4.0]}]


def test_a_point_between() -> None:
    """A third of the way from 0 to 300 is 54 + 292 / 3 = 151.33; 3 on an axis from 0 to 10 is 172 - 0.3 * 158."""
    frame = Frame(360, 210, (0, 300), (0, 10))
    assert frame.x(100) == pytest.approx(151.3333, abs=1e-3)
    assert frame.y(3) == pytest.approx(172 - 47.4)


def test_logarithmic_axis_by_hand() -> None:
    """On an axis from 0.1 to 10 the value 1 is in the middle: 14 + 158 / 2 = 93. 0.3 to 4 lie between 0.2 and 5."""
    assert Frame(360, 210, (0, 1), (0.1, 10), log=True).y(1) == pytest.approx(93)
    ends, marks = log_ticks(0.3, 4)
    assert ends == pytest.approx((0.2, 5)) and marks == pytest.approx([0.2, 0.5, 1, 2, 5])
    ends, marks = log_ticks(0.003, 4000)
    assert ends == pytest.approx((0.002, 5000))
    assert marks == pytest.approx([0.01, 0.1, 1, 10, 100, 1000]), "19 numbers would be too many: powers of ten"


def test_when_the_axis_is_logarithmic() -> None:
    """Values from 1 to 7 span a factor of 7, above 6; from 1 to 5 they do not; zero has no logarithm."""
    assert fit([Series("a", [(1, 1.0), (2, 7.0)])], (360, 210), log=True).log
    assert not fit([Series("a", [(1, 1.0), (2, 5.0)])], (360, 210), log=True).log
    assert not fit([Series("a", [(1, 0.0), (2, 5.0)])], (360, 210), log=True).log


def test_ticks_by_hand() -> None:
    """3.7 in five parts is 0.74, so ticks are 1 apart; 0.013 in five is 0.0026, so 0.005; a single value is widened."""
    assert ticks(0.4, 4.1) == [0, 1, 2, 3, 4, 5]
    assert ticks(0.401, 0.414) == pytest.approx([0.4, 0.405, 0.41, 0.415])
    assert ticks(5, 5)[0] < 5 < ticks(5, 5)[-1]


@given(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12))
def test_ticks_hold_the_values(first: float, second: float) -> None:
    """Whatever the values, the ticks begin at or below the lesser and end at or above the greater, and are few."""
    low, high = sorted((first, second))
    found = ticks(low, high)
    slack = 1e-6 * (found[-1] - found[0])
    assert found[0] <= low + slack and found[-1] >= high - slack
    assert 2 <= len(found) <= 8


def test_the_grid_uses_the_ticks_of_the_frame() -> None:
    """0.597 to 0.695 are 0.02 apart: 0.58 to 0.70, seven lines. Ticks made anew from these ends would be others."""
    frame = fit([Series("f1", [(1, 0.597), (2, 0.695)])], (360, 210))
    assert frame.y_range == pytest.approx((0.58, 0.70)) and len(frame.y_ticks) == 7
    chart = line_chart("f1", [Series("f1", [(1, 0.597), (2, 0.695)])])
    assert chart is not None and chart.svg.count('class="rule"') == 7


def test_missing_values_are_gaps() -> None:
    """Four values with the third missing: one stretch of two points and a lone point, which is drawn as a dot."""
    chart = line_chart("a", [Series("a", [(1, 1.0), (2, 2.0), (3, None), (4, 1.0)])])
    assert chart is not None
    path = chart.svg.split(' d="')[1].split('"')[0]
    assert path.count("M") == 1 and path.count("L") == 1
    assert chart.svg.count("<circle") == 1
    assert line_chart("a", [Series("a", [(1, None)]), Series("b", [])]) is None


def test_smooth_by_hand() -> None:
    """With span 3 the old average keeps b = 1 - 2/4 = 1/2: of 4, 0, 2 that gives 4, (2 + 0)/(1/2 + 1/4) / 2 = 4/3, ...

    In sums: t = 1/2 * 4 = 2, w = 1/2; then t = 1, w = 3/4; then t = 1/2 + 1 = 3/2, w = 7/8, so 12/7.
    """
    assert smooth([4.0, 0.0, 2.0], 3) == pytest.approx([4, 4 / 3, 12 / 7])
    assert smooth([4.0, None, 4.0], 3) == [4, None, 4]
    assert smooth([3.0, 1.0], 1) == [3.0, 1.0], "a span of 1 smooths nothing"


def test_thinning_keeps_spikes_and_ends() -> None:
    """Of 10,000 points at most 502 are drawn, among them the only spike, the only trough and both ends."""
    values: list[float | None] = [1.0] * 10_000
    values[4321], values[77] = 99.0, -99.0
    kept = thin(values)
    assert {0, 77, 4321, 9999} <= set(kept) and len(kept) <= 502
    assert thin([1.0, None, 2.0]) == [0, 1, 2]
    assert thin([None] * 2000, 10)[0] == 0


def test_best_step_is_marked() -> None:
    """The validation losses 3, 1, 2 at steps 10, 20, 30 with `best.json` at 20: the mark is at 20 and says so."""
    lines = [{"kind": "validation", "step": s, "loss": v} for s, v in ((10, 3.0), (20, 1.0), (30, 2.0))]
    (chart,) = curves(Run(path=None, validation=lines, best={"step": 20, "metric": "loss"}))  # type: ignore[arg-type]
    assert "<title>best: 1 at 20</title>" in chart.svg
    assert "best: 1 at 20" in chart.svg.split('aria-label="')[1].split('"')[0]


def test_hostile_values_make_no_drawing_fail() -> None:
    """null, NaN, infinity, text, a truth value and 1e308 are gaps; the two real losses, 2 and 1, make the curve."""
    odd = (None, math.nan, math.inf, "x", True, 1e308)
    train = [{"step": i, "loss": v, "grad_norm": v, "tokens_per_second": None} for i, v in enumerate((2.0, *odd, 1.0))]
    charts = curves(Run(path=None, train=train))  # type: ignore[arg-type]
    assert [c.title for c in charts] == ["Loss", "Gradient norm"]
    assert json.loads(charts[0].data)["series"][0]["y"] == [2.0, *[None] * 6, 1.0]
    assert "nan" not in charts[0].svg and "inf" not in charts[0].svg
