"""Ratios, medians and refusals of the comparison, worked out by hand."""

from __future__ import annotations

from typing import Any

from burnish.benchmarks.chart import draw
from burnish.benchmarks.compare import compare
from burnish.benchmarks.table import markdown

EXPECTED = {"rows": 4, "updates": 2, "tokens": 100, "trained_tokens": 40, "token_sum": 900, "label_sum": 300}


def result(rate: float, **changes: Any) -> dict[str, Any]:
    """One run that did what was asked."""
    counts = {key: value for key, value in EXPECTED.items() if key != "rows"}
    return {
        **counts,
        "tokens_per_second": rate,
        "examples_per_second": rate / 25,
        "peak_bytes": 2 << 30,
        "startup_seconds": 2.0,
        "held_out_loss": 1.5,
        "trained_parameters": 12,
        "threads": 2,
        **changes,
    }


def test_medians_and_ratios_round_by_round() -> None:
    """Burnish 300, 360, 330; the other 100, 90, 110.

    Medians: 330 and 100. Round by round Burnish is faster by 300/100 = 3, 360/90 = 4, 330/110 = 3; so 3, 3, 4, which
    is not the ratio of the medians, 3.3. Memory: 4 GiB over 2 GiB is 2 in every round.
    """
    rounds = {
        "burnish": [result(300), result(360), result(330)],
        "other": [result(rate, peak_bytes=4 << 30) for rate in (100, 90, 110)],
    }
    ours, other = compare(rounds, EXPECTED)
    rate = ours.spreads["tokens_per_second"]
    assert (rate.minimum, rate.median, rate.maximum) == (300, 330, 360)
    assert other.spreads["tokens_per_second"].median == 100
    assert other.faster is not None
    assert (other.faster.minimum, other.faster.median, other.faster.maximum) == (3, 3, 4)
    assert other.ratios["peak_bytes"].median == 2
    assert other.ratios["tokens_per_second"].minimum == 90 / 360
    assert ours.faster is not None and ours.faster.median == 1


def test_the_median_of_two_rounds_is_their_mean() -> None:
    """100 and 140: 120."""
    (line,) = compare({"burnish": [result(140), result(100)]}, EXPECTED)
    assert line.spreads["tokens_per_second"].median == 120


def test_a_slow_contender_is_held_against_the_round_it_shared() -> None:
    """One run of 50 beside Burnish's 100 of the same round: 2, whatever Burnish did in its second round."""
    _, slow = compare({"burnish": [result(100), result(900)], "slow": [result(50)]}, EXPECTED)
    assert slow.faster is not None and slow.faster.median == 2


def test_another_job_is_not_compared() -> None:
    """Each of these changes what was trained; the sentence gives both numbers, and there are no ratios."""
    for key, value, words in (
        ("trained_parameters", 13, "13 trained parameters in place of 12"),
        ("threads", 1, "1 threads in place of 2"),
        ("updates", 3, "3 updates, the rows give 2"),
        ("tokens", 99, "99 tokens, the rows give 100"),
        ("trained_tokens", 100, "100 trained tokens, the rows give 40"),
        ("token_sum", 901, "901 sum of token ids, the rows give 900"),
        ("label_sum", 299, "299 sum of labels, the rows give 300"),
    ):
        ours, other = compare({"burnish": [result(100)], "other": [result(500, **{key: value})]}, EXPECTED)
        assert other.why_not == f"another job: {words}"
        assert not other.ratios and other.faster is None and not ours.why_not


def test_burnish_is_judged_too() -> None:
    """Where Burnish itself leaves tokens out, nobody is compared with it; the others keep their numbers."""
    ours, other = compare({"burnish": [result(100, tokens=95)], "other": [result(50)]}, EXPECTED)
    assert "95 tokens" in ours.why_not
    assert other.faster is None and not other.why_not and other.spreads["tokens_per_second"].median == 50


def test_a_failure_says_why() -> None:
    ours, other = compare({"burnish": [result(100)], "other": [{"failed": "ImportError: no such thing"}]}, EXPECTED)
    assert other.why_not == "did not run: ImportError: no such thing"
    assert not ours.why_not


def test_table_and_drawing_hold_everyone() -> None:
    """A bar for who is compared, a sentence for who is not; markup in a message stays text."""
    rounds = {"burnish": [result(300)], "other": [result(100)], "third": [{"failed": "a | <b>"}]}
    lines, titles = compare(rounds, EXPECTED), {"burnish": "Burnish", "other": "Other", "third": "Third"}
    table = markdown(lines, titles).splitlines()
    assert table[2] == "| Burnish | 300, 300, 300 |  | 2.0 GiB | 1.500 | 2.0 s |"
    assert (
        table[3] == "| Other | 100, 100, 100 | 3.00, 3.00, 3.00 | 2.0 GiB (1.00 ×) | 1.500 (1.000 ×) | 2.0 s (1.00 ×) |"
    )
    assert table[4] == "| Third | did not run: a \\| <b> |  |  |  |  |"
    drawing = draw("A job", titles, lines)
    assert drawing.count('class="bar') == 2 and "&lt;b&gt;" in drawing and "<b>" not in drawing
