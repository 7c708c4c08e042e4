"""Scoring a model again, outside a run: a run's tuned model, or a recipe's model as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.adapters.lora import projection_of
from burnish.core.config import apply_overrides, build
from burnish.core.errors import UserError
from burnish.core.files import write_atomic
from burnish.core.findings import refuse_stops
from burnish.data.prepare import Prepared
from burnish.evaluate.by_task import by_task
from burnish.evaluate.loss import View, batch_tokens
from burnish.evaluate.run import Evaluation, Split, evaluate, predictions
from burnish.evaluate.speed import measure_speed
from burnish.evaluate.text import require_metrics
from burnish.models.classifier_files import store_temperature
from burnish.models.fuse import fuse
from burnish.models.load import Loaded
from burnish.ops.machine import bound_product_caches, default_device, keep_memory, use_all_cores
from burnish.train.config import RunConfig
from burnish.train.folder import RECIPE, jsonl, open_run
from burnish.train.handover import load_handed_over, read_recipe
from burnish.train.layout import decoder_start, settle_layout
from burnish.train.precision import choose_precision
from burnish.train.score import calibration, temperature_on
from burnish.train.tasks import load_new, read_data


@dataclass(frozen=True)
class Target:
    """A model and the rows that it is to be scored on.

    Attributes:
        config: The recipe: data, choices, metrics.
        loaded: The model.
        prepared: All rows of the recipe.
        split: The rows that are scored.
        view: How the model is called.
        folder: The run that the model is from; None for a recipe's untouched one.
    """

    config: RunConfig
    loaded: Loaded
    prepared: Prepared
    split: Split
    view: View
    folder: Path | None = None

    def rows(self, name: str) -> Split:
        """Another split of the same recipe.

        Raises:
            UserError: The recipe holds out no such rows.
        """
        return split_of(self.config, self.prepared, name)

    def score(self) -> Evaluation:
        """Everything that the recipe asks to be measured."""
        return evaluate(self.view, self.split, self.config.evaluate, self.prepared.renderer)


def open_target(config: RunConfig, split: str, *, run: Path | None = None) -> Target:
    """A run's tuned model, or the untouched model of a recipe, with the rows of a split.

    Args:
        config: The recipe: data, choices, metrics.
        split: ``train``, ``validation`` or ``test``.
        run: The run whose model is scored; without it the recipe's own model.

    Raises:
        UserError: There is no such split, or the recipe or data is refused.
    """
    if config.classifies and run is None:
        raise UserError(
            "this recipe's head is new: before training it answers at chance",
            where="task",
            fix="train it with `burnish run`, whose report scores it before and after; or name a run",
        )
    use_all_cores()
    bound_product_caches()
    keep_memory()
    require_metrics(config.evaluate.metrics)
    prepared = read_data(config, augment=split == "train")
    refuse_stops(prepared.findings)
    rows = split_of(config, prepared, split)
    precision = choose_precision(config.train.precision, default_device(), trains_base=False)
    loaded = load_handed_over(run, dtype=precision.base) if run else load_new(config, precision.base)
    loaded.model.to(default_device())  # type: ignore[arg-type]
    return Target(config, loaded, prepared, rows, view_of(config, loaded), run)


def split_of(config: RunConfig, prepared: Prepared, name: str) -> Split:
    """The rows of a split, ready to be scored.

    Raises:
        UserError: There are none.
    """
    if not len(prepared.table(name)):
        raise UserError(f"the recipe holds out no {name} rows", where="data.split", fix=f"set `data.split.{name}`")
    return Split.make(name, prepared.table(name), prepared.examples[name], config.evaluate, prepared.renderer)


def describe_score(
    target: Target, result: Evaluation, rows_file: Path | None = None, *, speed: bool = False
) -> dict[str, Any]:
    """What a model's scores come to.

    Args:
        target: The model and its rows.
        result: Its scores.
        rows_file: Where to write every row with its answer.
        speed: Also measure latency and throughput, of text and of one class a row.
    """
    if rows_file:
        write_atomic(rows_file, jsonl(predictions(target.split, model=result)))
    found = {"split": target.split.name, "rows": target.split.questions, "model": result.to_json()}
    if target.split.class_tasks:
        found["tasks"] = {task: one.to_json() for task, one in by_task(result).items()}
    head = target.loaded.classifier
    if head is not None and head.temperature != 1.0:
        found["calibration"] = calibration(target.split, result.scores, head.temperature)
    if speed and target.split.head is None:
        found["speed"] = measure_speed(target.view, target.split, target.config.evaluate)
    return found


def calibrate_target(target: Target) -> float:
    """Fit the temperature of a run's head on its validation rows, and store it in the run's ``final/``.

    Raises:
        UserError: The model has no head, or there are no validation rows.
    """
    if target.loaded.classifier is None or target.folder is None or not target.split.choices:
        raise UserError(
            "only a head that chooses one of several classes has a temperature",
            where="--calibrate",
            fix="name a run of `task: classification`",
        )
    rows = target.rows("validation")
    head = target.loaded.classifier
    head.temperature = 1.0
    head.temperature = temperature_on(target.view, rows)
    store_temperature(open_run(target.folder).final, head.temperature)
    return head.temperature


def view_of(config: RunConfig, loaded: Loaded) -> View:
    precision = choose_precision("fp32", loaded.model.device, trains_base=False)
    layout = settle_layout(config, loaded)
    if layout == "packed":
        fuse(loaded.model, projection_of)
    return View(
        loaded=loaded,
        layout=layout,
        batch_tokens=config.evaluate.batch_tokens or batch_tokens(loaded),
        autocast=lambda: precision.context(loaded.model.device),
        decoder_start_id=decoder_start(loaded),
    )


@dataclass(frozen=True)
class HeldOut:
    """A run's first held-out rows.

    Attributes:
        score: Metrics of a model on them.
        ids: The tokens of each.
    """

    score: Callable[[Loaded], dict[str, float]]
    ids: list[list[int]]


def held_out(config: RunConfig, limit: int) -> HeldOut | None:
    """A run's first held-out rows; None where none are held out or left.

    Text metrics are left out: they need answers to be generated, and the loss is the finer measure of a change.
    """
    try:
        prepared = read_data(config, augment=False)
    except UserError:
        return None
    split = next((s for s in ("validation", "test") if len(prepared.table(s))), None)
    if split is None:
        return None
    settings = config.evaluate.model_copy(update={"metrics": ()})
    table, examples = prepared.table(split).head(limit), prepared.examples[split][:limit]
    rows = Split.make(split, table, examples, settings, prepared.renderer)
    return HeldOut(
        score=lambda loaded: evaluate(view_of(config, loaded), rows, settings, prepared.renderer).values(),
        ids=[[int(i) for i in table.row(n)[0]] for n in range(len(table))],
    )


def recipe_of_run(path: Path, overrides: Sequence[str]) -> RunConfig:
    """The resolved recipe of a run, with overrides: another batch size, other data."""
    folder = open_run(path)
    values = apply_overrides(read_recipe(folder).model_dump(mode="json"), overrides)
    return build(RunConfig, values, where=str(folder.path / RECIPE))
