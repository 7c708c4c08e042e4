"""The curves of a run's log."""

from __future__ import annotations

from typing import Any

from burnish.report.charts import Chart, Point, Series, line_chart, smooth, thin
from burnish.report.metrics import metric_of
from burnish.report.numbers import count, number
from burnish.report.read import Run

_SKIPPED = {"kind", "step", "epoch", "improved", "loss", "perplexity"}
_SCORES = ("valid", "second", "third")
_PARTS = ("smooth", *_SCORES)
_PART = "loss."


def curves(run: Run) -> list[Chart]:
    """Every chart for which the log has values."""
    scores = score_chart(run)
    charts = (loss_chart(run), scores, parts_chart(run), *optimiser_charts(run, large=scores is None))
    return [chart for chart in charts if chart]


def loss_chart(run: Run) -> Chart | None:
    """Training loss, as it is and smoothed, and validation loss with the best step marked."""
    span = max(1.0, len(run.train) / 20)
    raw, smoothed = _train(run, "loss", span)
    valid = _validation(run, "loss")
    series = [Series("training", raw, "raw")]
    if span > 1:
        series.append(Series("training, smoothed", smoothed, "smooth"))
    series.append(Series("validation", valid, "valid", dots=True))
    caption = f"Mean loss per {run.unit}." if run.classifies else "Mean loss per trained token."
    if span > 1:
        caption += f" The smoothed curve is an exponential average over about {count(span)} updates."
    best = _best(run, valid) if run.metric == "loss" else None
    return line_chart("Loss", series, caption=caption, best=best, large=True, log=True)


def score_chart(run: Run) -> Chart | None:
    """The other validation metrics, such as accuracy and macro-F1."""
    names = [name for row in run.validation for name in row if name not in _SKIPPED and number(row[name]) is not None]
    series = []
    best = None
    for name, style in zip(dict.fromkeys(names), _SCORES, strict=False):
        points = _validation(run, name)
        series.append(Series(metric_of(name).label, points, style, dots=True))
        if name == run.metric:
            best = _best(run, points)
    return line_chart("Validation scores", series, caption="On the validation rows.", best=best, large=True)


def parts_chart(run: Run) -> Chart | None:
    """The weighed terms that the loss is a sum of, where there are several."""
    names = list(dict.fromkeys(name for row in run.train for name in row if name.startswith(_PART)))
    span = max(1.0, len(run.train) / 20)
    series = [
        Series(name.removeprefix(_PART).replace("_", " "), _train(run, name, span)[1], style)
        for name, style in zip(names, _PARTS, strict=False)
    ]
    caption = "Each term times its weight; their sum is the loss that is trained. Smoothed."
    return line_chart("Parts of the loss", series, caption=caption, large=True) if len(series) > 1 else None


def optimiser_charts(run: Run, large: bool) -> list[Chart | None]:
    """What the optimiser did, and how fast."""
    shown = (
        ("learning_rate", "Learning rate", "Of each update."),
        ("grad_norm", "Gradient norm", _clipping(run)),
        ("tokens_per_second", "Tokens per second", "Real tokens; padding is not counted."),
    )
    charts = []
    for name, title, caption in shown:
        raw, smoothed = _train(run, name, max(1.0, len(run.train) / 20))
        series = [Series(title.lower(), raw, "smooth")]
        if name != "learning_rate" and len(run.train) > 20:
            series = [Series(title.lower(), raw, "raw"), Series("smoothed", smoothed, "smooth")]
            caption += " Faint: each update; line: smoothed."
        chart = line_chart(
            title, series, caption=caption, large=large, from_zero=True, log=name == "grad_norm", legend=False
        )
        charts.append(chart)
    return charts


def _clipping(run: Run) -> str:
    train = run.recipe.get("train")
    limit = number(train.get("max_grad_norm")) if isinstance(train, dict) else None
    if limit is None:
        return "Global norm of each update's gradient."
    norms = [norm for row in run.train if (norm := number(row.get("grad_norm"))) is not None]
    over = sum(norm > limit for norm in norms)
    return f"Before clipping to {limit:g}, which {count(over)} of {count(len(norms))} updates needed."


def _train(run: Run, name: str, span: float) -> tuple[list[Point], list[Point]]:
    values = [_plotted(row.get(name)) for row in run.train]
    averaged = smooth(values, span)
    kept = thin(values)
    steps = [float(row["step"]) for row in run.train]
    return [(steps[i], values[i]) for i in kept], [(steps[i], averaged[i]) for i in kept]


def _validation(run: Run, name: str) -> list[Point]:
    return [(float(row["step"]), _plotted(row.get(name))) for row in run.validation]


def _plotted(value: Any) -> float | None:
    """A number that a drawing can hold; beyond that its ends would be no numbers."""
    known = number(value)
    return known if known is not None and abs(known) < 1e30 else None


def _best(run: Run, points: list[Point]) -> tuple[float, float] | None:
    return next(((x, y) for x, y in points if x == run.best_step and y is not None), None)
