"""What can be done with a run that is finished: a place on the line to its original, or an average of checkpoints.

Both are judged on the validation rows, beside what the model still knows; the test rows stay untouched, so that what is
reported of them stays honest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from burnish.adapters.attach import sets_of
from burnish.adapters.training import handed_over
from burnish.checkpoint.store import Checkpoint, CheckpointStore
from burnish.compare.basis import settled
from burnish.compare.front import Option, Weighed
from burnish.compare.outcome import scored_of
from burnish.compare.retained import Meter, meter_of
from burnish.compare.run import deciding
from burnish.compare.statistics import Scored, estimate, resampled
from burnish.compose.average import mean_of
from burnish.compose.line import Line, line_between, line_of
from burnish.core.errors import UserError
from burnish.core.files import write_json
from burnish.evaluate.resample import Draws
from burnish.evaluate.run import evaluate
from burnish.train.config import RunConfig
from burnish.train.ema import averaged
from burnish.train.folder import open_run
from burnish.train.handover import read_recipe, write_export
from burnish.train.rescore import Target, open_target
from burnish.train.tasks import load_new

EXPORTS = {"interpolation": "interpolated", "average": "averaged"}
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
Heard = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Afterwards(Weighed):
    """What came of it.

    Attributes:
        run: The run.
        kind: ``interpolation`` or ``average``.
        export: The folder that is written.
        made: What it holds; empty for the option that is advised.
    """

    run: Path
    kind: str
    export: Path
    made: str = ""

    @property
    def of(self) -> str:
        """What the export holds."""
        return self.made or (self.advice.label if self.advice else "")

    def to_json(self) -> dict[str, Any]:
        """For the file beside the run."""
        return {
            "run": str(self.run),
            "kind": self.kind,
            **self.basis(),
            "options": [self.option_json(option) for option in self.options],
            "export": str(self.export),
            "of": self.of,
        }


class Judge:
    """Scores an opened run's model as it is at the moment of the call.

    Args:
        target: The run's model with its validation rows.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.meter: Meter | None = None
        self.settings = target.config.evaluate.model_copy(update={"metrics": ()})  # no texts are generated
        self._weights: Draws | None = None
        self.metric = "loss"

    def measure_against_this(self) -> None:
        """The model is its original now: what is kept is measured against it."""
        self.meter = meter_of(self.target)

    def option(self, label: str) -> Option:
        """The scores of the model as it is."""
        run = self._scored()
        if self._weights is None:
            self._weights = resampled(len(run.ids))
            self.metric = settled(deciding(self.target.config), run)
        return Option(label, estimate([run], self.metric, self._weights), self.meter() if self.meter else None)

    def judged(
        self, path: Path, kind: str, options: Sequence[Option], tolerance: float, *, plain: str = "", made: str = ""
    ) -> Afterwards:
        """What the options of a run come to; its export is still to be written."""
        config = self.target.config
        return Afterwards(
            metric=self.metric,
            split="validation",
            rows=self.target.split.questions,
            about={"recipe": config.name, "model": config.model.path},
            options=tuple(options),
            tolerance=tolerance,
            plain=plain,
            run=path,
            kind=kind,
            export=path / EXPORTS[kind],
            made=made,
        )

    def _scored(self) -> Scored:
        split = self.target.split
        return scored_of(split, evaluate(self.target.view, split, self.settings, self.target.prepared.renderer))


def interpolate_run(
    path: Path, alphas: Sequence[float] = ALPHAS, tolerance: float = 0.01, heard: Heard = lambda text: None
) -> Afterwards:
    """Score a run's model at places on the line to its original, and write the one that is recommended.

    Args:
        path: The run.
        alphas: The places, 0 the original and 1 the tuned model; both are always scored.
        tolerance: How much of what the original knew may be lost, as a share.
        heard: Told what goes on.

    Raises:
        UserError: There is no finished run, it has no validation rows, or what it trained has no line.
    """
    wrong = [alpha for alpha in alphas if not 0 <= alpha <= 1]
    if wrong:
        raise UserError(f"{wrong[0]:g} is not between 0 and 1", where="--alphas", fix="write some as `0,0.5,1`")
    config, target = _opened(path)
    line = _line(config, target)
    judge, found = Judge(target), []
    line.move_(0)
    judge.measure_against_this()
    chosen = {f"alpha {alpha:g}": alpha for alpha in sorted({0.0, 1.0, *alphas})}
    for label, alpha in chosen.items():
        heard(f"scoring {label}")
        line.move_(alpha)
        found.append(judge.option(label))
    result = judge.judged(path, "interpolation", found, tolerance, plain="alpha 1")
    line.move_(chosen[result.of])
    heard("writing what is recommended")
    write_export(result.export, target.loaded, config)
    write_json(path / "interpolation.json", result.to_json())
    return result


def average_run(
    path: Path, *, last: int | None = None, ema: bool = False, tolerance: float = 0.01, heard: Heard = lambda text: None
) -> Afterwards:
    """Make a model of the mean of a run's newest checkpoints, or of the moving average that they keep, and score it.

    Args:
        path: The run.
        last: How many of the newest; all that there are without it.
        ema: The moving average of the best checkpoint in place of a mean.
        tolerance: As of ``interpolate_run``.
        heard: Told what goes on.

    Raises:
        UserError: There are too few checkpoints, or none keeps an average.
    """
    store = CheckpointStore(open_run(path).checkpoints)
    what, tensors, kept = _moving(path, store) if ema else _mean(store, last)
    config, target = _opened(path)
    judge, found = Judge(target), [("handed over", None), (what, (tensors, kept))]
    options = []
    for label, state in found:
        heard(f"scoring {label}")
        if state is not None:
            _put(target, *state)
        options.append(judge.option(label))
    result = judge.judged(path, "average", options, tolerance, made=what)
    write_export(result.export, target.loaded, config)
    write_json(path / "average.json", result.to_json())
    return result


def _opened(path: Path) -> tuple[RunConfig, Target]:
    config = read_recipe(open_run(path))
    return config, open_target(config, "validation", run=path)


def _line(config: RunConfig, target: Target) -> Line:
    sets = sets_of(target.loaded.model)
    if sets:
        return line_of(sets[-1])
    original = load_new(config, target.loaded.model.dtype)
    return line_between(target.loaded.model, original.model)


def _mean(store: CheckpointStore, last: int | None) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    steps = store.steps()
    chosen = steps[-last:] if last else steps
    if len(chosen) < 2 or (last and len(chosen) < last):
        raise UserError(
            f"the run has {len(steps)} checkpoint{'s' if len(steps) != 1 else ''}"
            + (f", and {last} are wanted" if last else ", and an average needs two"),
            where=str(store.folder),
            fix="train with a larger `checkpoint.keep` and a smaller `checkpoint.every_steps`",
        )
    loaded: Iterator[Checkpoint] = (store.load(step) for step in chosen)
    groups = [checkpoint.tensors for checkpoint in loaded]
    names = [f"step {step}" for step in chosen]
    label = f"mean of {len(chosen)} checkpoints, updates {chosen[0]} to {chosen[-1]}"
    return label, mean_of([group["trainable"] for group in groups], names), dict(groups[-1].get("buffers", {}))


def _moving(path: Path, store: CheckpointStore) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    best = (open_run(path).read("best.json") or {}).get("step")
    if not store.steps():
        raise UserError("the run has no checkpoint", where=str(store.folder), fix="keep them: `checkpoint.keep`")
    step = best if best in store.steps() else store.steps()[-1]
    groups = store.load(step).tensors
    found = averaged(groups)
    if not found:
        raise UserError(
            "this run kept no moving average", where=str(store.path(step)), fix="train with `checkpoint.ema={}`"
        )
    return f"moving average at update {step}", found, dict(groups["buffers"])


@torch.no_grad()
def _put(target: Target, tensors: dict[str, Tensor], kept: dict[str, Tensor]) -> None:
    """Put trained tensors of a checkpoint into an opened run's model."""
    loaded = target.loaded
    own = dict(loaded.model.named_parameters(remove_duplicate=False))
    own |= dict(loaded.classifier.named()) if loaded.classifier is not None else {}
    for name, tensor in handed_over(loaded.model, tensors, kept).items():
        if name not in own or own[name].shape != tensor.shape:
            raise UserError(
                f"the checkpoint's `{name}` has no place in the model that the run handed over",
                fix="finish the run again with `burnish resume`",
            )
        own[name].copy_(tensor)
