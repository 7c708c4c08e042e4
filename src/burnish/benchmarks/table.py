"""The comparison as rows of text: the same for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from burnish.benchmarks.compare import Line, Spread

GIB = 1 << 30
HEAD = ("", "tokens/s", "Burnish is faster by", "peak memory", "held-out loss", "start-up")
WHAT = "min, median, max of the rounds; ratios to Burnish, round by round"


def rows(lines: Sequence[Line], titles: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Head and cells; a contender that is not compared has one cell, which says why."""
    with_accuracy = any("held_out_accuracy" in line.spreads for line in lines)
    yield (*HEAD, *(("accuracy",) if with_accuracy else ()))
    for line in lines:
        title = titles.get(line.name, line.name)
        yield (title, line.why_not) if line.why_not else (title, *_cells(line, with_accuracy))


def markdown(lines: Sequence[Line], titles: Mapping[str, str]) -> str:
    """The comparison as a Markdown table."""
    head, *body = rows(lines, titles)
    full = [(*cells, *[""] * (len(head) - len(cells))) for cells in (head, ("---",) * len(head), *body)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in full)


def _cells(line: Line, with_accuracy: bool) -> Iterator[str]:
    yield _three(line.spreads["tokens_per_second"], "{:,.0f}")
    ratios = {} if line.name == "burnish" else line.ratios  # to itself it is 1
    yield _three(line.faster, "{:.2f}") if line.faster and ratios else ""
    peak = f"{line.spreads['peak_bytes'].median / GIB:.1f} GiB"
    yield peak + _ratio(ratios.get("peak_bytes"))
    yield f"{line.spreads['held_out_loss'].median:.3f}" + _ratio(ratios.get("held_out_loss"), 3)
    yield f"{line.spreads['startup_seconds'].median:.1f} s" + _ratio(ratios.get("startup_seconds"))
    if with_accuracy:
        accuracy = line.spreads.get("held_out_accuracy")
        yield f"{accuracy.median:.3f}" if accuracy else ""


def _three(spread: Spread, form: str) -> str:
    return ", ".join(form.format(value) for value in (spread.minimum, spread.median, spread.maximum))


def _ratio(spread: Spread | None, digits: int = 2) -> str:
    return f" ({spread.median:.{digits}f} ×)" if spread else ""
