"""A learning-rate range test: a rate that rises until the loss complains, on weights that are thrown away after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from burnish.core.errors import TrainingStopped, UserError
from burnish.core.events import Action, Callback, Evaluated, Event, Stage, Stepped, Stop
from burnish.core.findings import Finding
from burnish.diagnose.rates import Suggestion, suggest
from burnish.train.config import RunConfig
from burnish.train.folder import RunFolder
from burnish.train.job import Cadence, Job
from burnish.train.loop import tell, train
from burnish.train.run import make_job
from burnish.train.score import Scorer
from burnish.train.setup import Setup, set_up
from burnish.train.stages import Stage as TrainStage
from burnish.train.stages import Stages
from burnish.train.state import TrainState

ENOUGH = 8
"""Updates before which a loss that rises is noise."""
FEWEST = 20
"""Updates without which a range test says nothing."""
COMPLAINS = 1.3
"""The test ends when the smoothed loss exceeds its minimum so many times."""
TURNED = "the loss turned upwards"
FAR = 5.0
"""A rate so many times off the suggested one deserves a warning."""


@dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Attributes:
        rates: The learning rate of each update that was made.
        losses: Its loss, before the update.
        suggestion: What follows.
        recipe_rate: The peak rate that the recipe would train with.
        recipe_reason: Where that comes from.
        ended: Why the test ended.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: Suggestion
    recipe_rate: float
    recipe_reason: str
    ended: str

    def finding(self) -> Finding:
        """The suggested rate beside the recipe's."""
        return compared(self.suggestion, self.recipe_rate)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "finding": self.finding().to_json()}


@dataclass(frozen=True)
class Rising(TrainStage):
    """A stage whose rate rises exponentially: ``low * (high / low) ^ (i / (n - 1))`` at its update i of n."""

    low: float = 1e-7

    def learning_rate(self, step: int) -> float:
        """Rate of an update."""
        return self.low * (self.peak[0] / self.low) ** (step / max(1, self.end - 1))


def range_test(
    config: RunConfig,
    *,
    low: float | None = None,
    high: float | None = None,
    updates: int = 80,
    share: float | None = None,
    callbacks: Sequence[Callback] = (),
) -> RangeTest:
    """Train with a rising rate and say where the loss falls fastest and where it turns.

    The rate rises by a constant factor from update to update (Smith, 2017), from 1/100 of the recipe's rate to 100
    times it, and the test ends before the weights are lost: when the smoothed loss exceeds 1.3 times its minimum, or
    is not finite. Nothing is written, and the weights are gone with the call.

    Args:
        config: The recipe.
        low: First rate.
        high: Last rate.
        updates: How many updates the way takes.
        share: Share of the recipe's own updates that they may be at most, as long as ``FEWEST`` are left.
        callbacks: Told of every update.

    Raises:
        UserError: The recipe is refused, or the range is empty.
    """
    setup = set_up(config.model_copy(update={"stages": ()}), callbacks)
    rate, reason = setup.learning_rate
    low, high = low or rate / 100, high or rate * 100
    if not low < high:
        raise UserError(
            f"the range from {low:g} to {high:g} is empty", where="--from, --to", fix="make `--to` the larger one"
        )
    if share is not None:
        updates = min(updates, max(FEWEST, int(share * len(setup.task_updates))))
    watch = _Watch()
    job = rising_job(setup, low, high, updates, callbacks)
    tell(callbacks, Stage("raising the learning rate", updates))
    try:
        ended = train(job, TrainState(), [*map(_unscored, callbacks), watch]).reason
    except TrainingStopped as stop:
        ended = stop.what
    if len(watch.losses) < ENOUGH:
        raise UserError(
            f"the test ended after {len(watch.losses)} updates: {ended}",
            where="--from",
            fix=f"begin lower, such as `--from {low / 100:.1e}`",
        )
    found = suggest(watch.rates, watch.losses, COMPLAINS)
    return RangeTest(tuple(watch.rates), tuple(watch.losses), found, rate, reason, _ending(ended))


def rising_job(setup: Setup, low: float, high: float, updates: int, callbacks: Sequence[Callback]) -> Job:
    """The recipe's job with another schedule and length; it neither saves nor evaluates."""
    job = make_job(setup, Scorer(setup, callbacks), RunFolder(Path()))
    own = setup.stages.stages[0]
    stage = Rising("range test", 0, updates, own.names, own.config, (high, "range test"), own.scales, low)
    rows = setup.task_updates
    rows.total_steps = updates
    return replace(
        job,
        updates=rows,
        stages=Stages((stage,)),
        evaluate=None,
        save=lambda state: Path(),
        keep=lambda state, batches, stop: None,
        watched={name: () for name, _ in setup.trainable},
        cadence=Cadence(),
        watch=None,
    )


def _unscored(callback: Callback) -> Callback:
    """A callback that hears of no evaluation, since none was made."""
    return lambda event: None if isinstance(event, Evaluated) else callback(event)


class _Watch:
    """Collects rates and losses, and ends the test when the loss complains."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []

    def __call__(self, event: Event) -> Action | None:
        if not isinstance(event, Stepped):
            return None
        self.rates.append(event.metrics["learning_rate"])
        self.losses.append(event.metrics["loss"])
        return Stop(TURNED) if suggest(self.rates, self.losses, COMPLAINS).turned else None


def compared(found: Suggestion, rate: float) -> Finding:
    """The recipe's rate beside what the test found."""
    evidence = {**asdict(found), "recipe": rate}
    if found.rate is None:
        return Finding(
            "note",
            "rate.unclear",
            "the loss did not fall anywhere in the range",
            "train.learning_rate",
            "Where nothing falls, no rate stands out.",
            "test a wider range, or look at the data with `burnish inspect`",
            evidence,
        )
    factor = rate / found.rate
    off = factor > FAR or factor < 1 / FAR
    side = "above" if factor > 1 else "below"
    what = f"the recipe's rate {rate:.2g} is {max(factor, 1 / factor):.1f} times {side} the suggested {found.rate:.2g}"
    return Finding(
        "warning" if off else "note",
        "rate.off" if off else "rate.fits",
        what if off else f"the recipe's rate {rate:.2g} fits; the test suggests {found.rate:.2g}",
        "train.learning_rate",
        found.why,
        f"train.learning_rate={found.rate:.1e}" if off else "",
        evidence,
    )


def _ending(reason: str) -> str:
    return "the range ended" if reason == "completed" else reason
