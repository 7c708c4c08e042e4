"""Two goods at once, the task and what the model still knows: which ways are worth a look, and which one to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from burnish.compare.basis import NAMES, Basis, better
from burnish.compare.statistics import Estimate


@dataclass(frozen=True)
class Option:
    """One way.

    Attributes:
        label: Its name.
        task: Its score in the metric that decides.
        kept: How much of what the model knew is left; None where it was not measured.
    """

    label: str
    task: Estimate
    kept: Estimate | None = None


@dataclass(frozen=True)
class Place:
    """Where an option stands among the others.

    Attributes:
        on_front: Whether no other is at least as good in both and better in one.
        beaten_by: The one that is, the best in the task of several.
        clearly: Whether the intervals of the two do not overlap, in the task or in what is kept.
    """

    on_front: bool
    beaten_by: str = ""
    clearly: bool = False


def places(options: Sequence[Option], metric: str) -> dict[str, Place]:
    """Where every option stands: the Pareto front, by the values; whether by more than chance, by the intervals."""
    sign = better(metric)
    return {option.label: _place(option, options, sign) for option in options}


def _place(option: Option, options: Sequence[Option], sign: float) -> Place:
    beating = [other for other in options if _beats(other, option, sign)]
    if not beating:
        return Place(True)
    clear = [other for other in beating if _clearly(other, option, sign)]
    best = max(clear or beating, key=lambda other: sign * other.task.value)
    return Place(False, best.label, bool(clear))


def _beats(one: Option, other: Option, sign: float) -> bool:
    gains = [sign * (one.task.value - other.task.value), _kept(one) - _kept(other)]
    return min(gains) >= 0 and max(gains) > 0


def _clearly(one: Option, other: Option, sign: float) -> bool:
    """Whether an option that beats another does so beyond both intervals, in at least one of the two goods."""
    task = _apart(one.task, other.task) if sign > 0 else _apart(other.task, one.task)
    return task or (one.kept is not None and other.kept is not None and _apart(one.kept, other.kept))


def _apart(upper: Estimate, lower: Estimate) -> bool:
    return upper.low > lower.high


def _kept(option: Option) -> float:
    return option.kept.value if option.kept is not None else 0.0


@dataclass(frozen=True)
class Advice:
    """What to take.

    Attributes:
        label: The option.
        within: Whether it keeps what was asked for.
        sure: Whether it does with its whole interval.
        words: The advice with its evidence, in sentences.
    """

    label: str
    within: bool
    sure: bool
    words: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For the file of results."""
        return {"label": self.label, "within": self.within, "sure": self.sure, "words": list(self.words)}


def advise(options: Sequence[Option], metric: str, tolerance: float, plain: str = "") -> Advice | None:
    """The best of the task that loses no more than the tolerance; None without options.

    Of those that keep 1 - tolerance by their value, the best in the task. One that keeps it with its whole interval is
    taken before, unless it is clearly worse in the task. Where none keeps it, the one that keeps the most.

    Args:
        options: All of them.
        metric: The metric of the task.
        tolerance: How much may be lost, as a share.
        plain: The label of the untreated way, which the advice is held against.
    """
    if not options:
        return None
    sign = better(metric)

    def by_task(option: Option) -> tuple[float, float]:
        return sign * option.task.value, _kept(option)

    measured = [option for option in options if option.kept is not None]
    if not measured:
        best = max(options, key=by_task)
        said = f"What the model still knows was not measured; `{best.label}` has the best {NAMES[metric]}."
        return Advice(best.label, False, False, (said,))
    enough = [option for option in measured if _kept(option) >= 1 - tolerance]
    if not enough:
        best = max(measured, key=lambda option: (_kept(option), sign * option.task.value))
        return Advice(best.label, False, False, tuple(_none_keeps(best, options, metric, tolerance, plain)))
    best = max(enough, key=by_task)
    safe = [option for option in enough if option.kept is not None and option.kept.low >= 1 - tolerance]
    near = [
        option
        for option in safe
        if not (_apart(best.task, option.task) if sign > 0 else _apart(option.task, best.task))
    ]
    best = max(near, key=by_task) if near else best
    return Advice(
        best.label, True, best in safe, tuple(_kept_by(best, best in safe, options, metric, tolerance, plain))
    )


def _kept_by(
    best: Option, sure: bool, options: Sequence[Option], metric: str, tolerance: float, plain: str
) -> list[str]:
    said = [
        f"To lose at most {100 * tolerance:g} % of what the model knew, take `{best.label}`: {_numbers(best, metric)}."
    ]
    if sure:
        said.append("Its whole interval is within the tolerance.")
    else:
        said.append("Its value is within the tolerance, the lower end of its interval is not: more seeds would tell.")
    return [*said, *_beside(best, options, metric, plain)]


def _none_keeps(best: Option, options: Sequence[Option], metric: str, tolerance: float, plain: str) -> list[str]:
    most = f"the most is kept by `{best.label}`: {_numbers(best, metric)}."
    said = f"None of these loses as little as {100 * tolerance:g} %; {most}"
    if best.label == plain:
        return [said, "That is the plain way: no means that was tried keeps more."]
    return [said, *_beside(best, options, metric, plain)]


def _numbers(option: Option, metric: str) -> str:
    t, kept = option.task, option.kept
    task = f"{NAMES[metric]} {t.value:.3f} ({t.low:.3f} to {t.high:.3f})"
    return task if kept is None else f"{task}, {kept.value:.1%} kept ({kept.low:.1%} to {kept.high:.1%})"


def _beside(best: Option, options: Sequence[Option], metric: str, plain: str) -> list[str]:
    """The advice against the untreated way."""
    other = next((option for option in options if option.label == plain), None)
    if other is None or other.kept is None or best.kept is None:
        return []
    if other is best:
        return ["That is the plain way: nothing has to be done against forgetting here."]
    said = f"`{plain}` has {_numbers(other, metric)}"
    lost = 1 - other.kept.value
    if lost <= 0:
        return [f"{said}; it lost nothing."]
    back = (best.kept.value - other.kept.value) / lost
    gain = better(metric) * (best.task.value - other.task.value)
    less = f"gives up {-gain:.3f} of the task" if gain < 0 else f"is better in the task by {gain:.3f}"
    return [f"{said}; `{best.label}` wins back {back:.0%} of what that loses, and {less}."]


@dataclass(frozen=True, kw_only=True)
class Weighed(Basis):
    """Options, and what is said of them.

    Attributes:
        options: Those with numbers, in the order in which they were given.
        tolerance: How much of what the model knew may be lost, as a share.
        plain: The label of the untreated way.
    """

    options: tuple[Option, ...]
    tolerance: float
    plain: str = ""

    @cached_property
    def places(self) -> dict[str, Place]:
        """Where each stands, by its label."""
        return places(self.options, self.metric)

    @cached_property
    def advice(self) -> Advice | None:
        """Which one to take; None without options."""
        return advise(self.options, self.metric, self.tolerance, self.plain)

    def option_json(self, option: Option) -> dict[str, Any]:
        """An option for a file of results."""
        place = self.places[option.label]
        return {
            "label": option.label,
            "task": option.task.to_json(),
            "retention": option.kept.to_json() if option.kept else None,
            "on_front": place.on_front,
            "beaten_by": place.beaten_by or None,
            "clearly": place.clearly,
        }

    def basis(self) -> dict[str, Any]:
        """The beginning of a file of results, with the advice."""
        return {**super().basis(), "advice": self.advice.to_json() if self.advice else None}
