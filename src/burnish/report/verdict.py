"""What came of a run, in one honest sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish.report.metrics import METRICS, Metric, Score, apart, metric_of, ordered, score
from burnish.report.numbers import count, decimal, number, p_equation, plural, rows, share
from burnish.report.read import Run, mapping

LEVEL = 0.05
"""Below this p-value a difference counts as more than chance."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a run.

    Attributes:
        tone: ``better``, ``worse``, ``mixed``, ``unclear``, ``unknown`` or ``unfinished``.
        badge: The tone in a word or two.
        sentence: The outcome in plain words.
        caveats: What the reader must know to take the sentence rightly.
    """

    tone: str
    badge: str
    sentence: str
    caveats: tuple[str, ...] = ()


def verdict(run: Run) -> Verdict:
    """Judge a run by its files."""
    base, tuned = mapping(run.evaluation.get("base")), mapping(run.evaluation.get("tuned"))
    metric = main_metric(base, tuned)
    if metric is None:
        return _without_comparison(run, base, tuned)
    if unchanged(run.evaluation):
        return Verdict("worse", "Nothing learnt", _nothing_learnt(run), caveats(run))
    return _compared(run, metric, score(base, metric.name), score(tuned, metric.name))


def main_metric(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> Metric | None:
    """The first metric in which both models have a value."""
    both = [m for m in ordered(base, tuned) if _known(base, m) and _known(tuned, m)]
    return both[0] if both else None


def unchanged(evaluation: Mapping[str, Any]) -> bool:
    """Whether every row's loss is the same before and after."""
    row = mapping(mapping(evaluation.get("comparison")).get("loss"))
    return all(number(row.get(key)) == 0 for key in ("difference", "low", "high"))


def caveats(run: Run) -> tuple[str, ...]:
    """Reasons to take the comparison with care."""
    found = []
    if run.evaluation and run.evaluation.get("split") == "validation":
        found.append(
            "The run holds out no test rows, so it was scored on the validation rows. They also chose the checkpoint, "
            "which flatters the tuned model a little."
        )
    majority = mapping(run.evaluation.get("majority"))
    new = "The head is new: before training it answers at chance, so “base” says what the random head gets right."
    if run.evaluation.get("new_head") is True and number(majority.get("accuracy")) is None:
        found.append(new)
    if run.evaluation.get("new_head") is True and number(majority.get("accuracy")) is not None:
        which = "of the training rows" if not run.evaluation.get("tasks") else "of each task's training rows"
        found.append(
            f"{new} Always answering “{majority.get('label')}”, the most frequent class {which}, would be "
            f"right in {share(majority.get('accuracy'))} of these rows "
            f"(macro-F1 {decimal(majority.get('macro_f1'), 2)})."
        )
    if run.damaged:
        found.append(f"These files could not be read and are left out: {', '.join(run.damaged)}.")
    return tuple(found)


def _known(evaluation: Mapping[str, Any], metric: Metric) -> bool:
    return score(evaluation, metric.name).value is not None


def _compared(run: Run, metric: Metric, base: Score, tuned: Score) -> Verdict:
    assert base.value is not None and tuned.value is not None
    before, after = _pair(base.value, tuned.value, metric.digits)
    gain = metric.gain(base.value, tuned.value)
    clear, evidence = _evidence(run, metric, base, tuned, gain)
    opening = f"{_after_tuning(run)}, {metric.sentence} on the {held_out(run)}"
    brackets = f" ({evidence})" if evidence else ""
    if not gain:
        return Verdict("unclear", "No difference", f"{opening} stayed at {after}{brackets}.", caveats(run))
    if not clear:
        hedge = "a difference that chance may explain" if clear is False else "and nothing says how sure that is"
        sentence = f"{opening} went from {before} to {after}, {hedge}{brackets}."
        return Verdict("unclear", "No clear difference", sentence, caveats(run))
    verb = "rose" if tuned.value > base.value else "fell"
    sentence = f"{opening} {verb} from {before} to {after}{brackets}."
    against = _against(run, metric, gain)
    if against:
        return Verdict("mixed", "Mixed", sentence[:-1] + f", but {against}.", caveats(run))
    if gain < 0:
        return Verdict("worse", "Worse", sentence + " The tuned model is worse than the base model.", caveats(run))
    return Verdict("better", "Better", sentence, caveats(run))


def _evidence(run: Run, metric: Metric, base: Score, tuned: Score, gain: int) -> tuple[bool | None, str]:
    """Whether a difference is more than chance (None: nobody can say), and by which signs."""
    comparison = mapping(run.evaluation.get("comparison"))
    own = mapping(comparison.get(metric.name))
    low, high = number(own.get("low")), number(own.get("high"))
    if low is not None and high is not None:  # an interval of the difference says more than two intervals
        nonzero = low > 0 or high < 0
        return nonzero, f"the 95 % interval of the difference {'excludes' if nonzero else 'includes'} zero"
    signs: list[str] = []
    separate = apart(base, tuned)
    if separate is not None:
        signs.append("95 % intervals do not overlap" if separate else "95 % intervals overlap")
    clear = separate
    if metric.name in ("macro_f1", "accuracy"):
        paired = mapping(comparison.get("accuracy"))
        p, change = number(paired.get("p_value")), number(paired.get("difference"))
        if p is not None:
            signs.append(f"McNemar {p_equation(p)}" + ("" if metric.name == "accuracy" else " for accuracy"))
            clear = _with_test(metric, separate, p, change, gain)
    return clear, "; ".join(signs)


def _with_test(metric: Metric, separate: bool | None, p: float, change: float | None, gain: int) -> bool:
    """McNemar's test is about accuracy; for macro-F1 it counts where accuracy moves the same way."""
    same_way = change is not None and change * gain > 0
    return (p < LEVEL and (metric.name == "accuracy" or same_way)) or (metric.name != "accuracy" and bool(separate))


def _against(run: Run, metric: Metric, gain: int) -> str:
    """A clear change of accuracy or loss the other way, as a clause; empty without one."""
    base, tuned = mapping(run.evaluation.get("base")), mapping(run.evaluation.get("tuned"))
    for other in (METRICS["accuracy"], METRICS["loss"]):
        before, after = score(base, other.name), score(tuned, other.name)
        if other.name == metric.name or before.value is None or after.value is None:
            continue
        turned = other.gain(before.value, after.value)
        clear, evidence = _evidence(run, other, before, after, turned)
        if clear and turned == -gain:
            verb = "rose" if after.value > before.value else "fell"
            first, last = _pair(before.value, after.value, other.digits)
            return f"{other.sentence} {verb} from {first} to {last} ({evidence})"
    return ""


def _without_comparison(run: Run, base: Mapping[str, Any], tuned: Mapping[str, Any]) -> Verdict:
    for name, one in (("base", base), ("tuned", tuned)):
        found = next((m for m in ordered(one) if _known(one, m)), None)
        if found:
            value = score(one, found.name).text(found)
            sentence = f"Only the {name} model was scored: {found.noun} {value} on the {held_out(run)}."
            return Verdict("unknown", "Not compared", sentence, caveats(run))
    if run.finished:
        done = f"Training {ending(run)} after {plural(run.step, 'update')}"
        return Verdict("unknown", "Not evaluated", f"{done}, but base and tuned model were not compared.", caveats(run))
    return Verdict("unfinished", "Not finished", _unfinished(run), caveats(run))


def _unfinished(run: Run) -> str:
    planned = f" of {count(run.updates)}" if run.updates is not None else ""
    if not run.step:
        start = f"The run has not made its first{planned} updates yet" if planned else "The run has made no update yet"
    else:
        start = f"The run is not finished: {count(run.step)}{planned} updates are done"
    best = next((row for row in run.validation if row["step"] == run.best_step), None)
    if best:
        metric = metric_of(run.metric)
        value = number(best.get(metric.name))
        if value is not None:
            start += f", with the best validation {metric.noun} so far, {value:.3f}, at step {count(best['step'])}"
    reason = run.stopped.get("reason")
    if isinstance(reason, str):
        start += ". It was interrupted" if reason == "interrupted" else f". It was stopped: {reason}"
    return f"{start}. Continue it with “burnish resume {run.path}”."


def ending(run: Run) -> str:
    """How training ended, as a verb phrase."""
    reason = run.finished.get("reason")
    known = {"completed": "ran to its end", "early-stopping": "stopped early, for want of improvement,"}
    return known.get(str(reason), f"stopped ({reason})")


def _nothing_learnt(run: Run) -> str:
    return f"{_after_tuning(run)}, the model answers the {held_out(run)} exactly as before: nothing was learnt."


def _after_tuning(run: Run) -> str:
    if run.train_rows is None:
        return "After tuning"
    made = f" and {count(run.new_rows)} made of them" if run.new_rows else ""
    return f"After tuning on {rows(run.train_rows - run.new_rows)}{made}"


def held_out(run: Run) -> str:
    """The rows that both models were scored on, as in ``1,000 held-out test rows``."""
    split = run.evaluation.get("split")
    kind = {"test": "held-out test ", "validation": "validation "}.get(str(split), "held-out ")
    known = number(run.evaluation.get("rows"))
    return f"{count(known) + ' ' if known is not None else ''}{kind}row" + ("" if known == 1 else "s")


def _pair(before: float, after: float, digits: int) -> tuple[str, str]:
    """Both values, with one digit less than a table where that still tells them apart."""
    for places in (digits - 1, digits, digits + 2):
        texts = f"{before:,.{places}f}", f"{after:,.{places}f}"
        if before == after or texts[0] != texts[1]:
            return texts
    return f"{before:.6g}", f"{after:.6g}"
