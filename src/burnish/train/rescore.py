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
from burnish.evaluate.loss import View, batch_tokens
from burnish.evaluate.run import Split, evaluate, predictions
from burnish.evaluate.text import require_metrics
from burnish.models.fuse import fuse
from burnish.models.load import Loaded
from burnish.ops.machine import bound_product_caches, default_device, keep_memory, use_all_cores
from burnish.train.config import RunConfig
from burnish.train.folder import RECIPE, jsonl, open_run
from burnish.train.handover import load_handed_over, read_recipe
from burnish.train.precision import choose_precision
from burnish.train.setup import decoder_start, settle_layout
from burnish.train.tasks import load_new, read_data


def score_target(
    config: RunConfig, split: str, rows_file: Path | None = None, *, run: Path | None = None
) -> dict[str, Any]:
    """Score a run's tuned model, or the untouched model of a recipe.

    Args:
        config: The recipe: data, choices, metrics.
        split: ``train``, ``validation`` or ``test``.
        rows_file: Where to write every row with its answer.
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
    if not len(prepared.table(split)):
        raise UserError(f"the recipe holds out no {split} rows", where="data.split", fix=f"set `data.split.{split}`")
    precision = choose_precision(config.train.precision, default_device(), trains_base=False)
    loaded = load_handed_over(run, dtype=precision.base) if run else load_new(config, precision.base)
    loaded.model.to(default_device())  # type: ignore[arg-type]
    return _score(config, loaded, prepared, split, rows_file)


def _score(config: RunConfig, loaded: Loaded, prepared: Prepared, split: str, rows_file: Path | None) -> dict[str, Any]:
    rows = Split.make(split, prepared.table(split), prepared.examples[split], config.evaluate, prepared.renderer)
    result = evaluate(_view(config, loaded), rows, config.evaluate, prepared.renderer)
    if rows_file:
        write_atomic(rows_file, jsonl(predictions(rows, model=result)))
    return {"split": split, "rows": rows.questions, "model": result.to_json()}


def _view(config: RunConfig, loaded: Loaded) -> View:
    precision = choose_precision("fp32", loaded.model.device, trains_base=False)
    layout = settle_layout(config, loaded)
    if layout == "packed":
        fuse(loaded.model, projection_of)
    return View(
        loaded=loaded,
        layout=layout,
        batch_tokens=config.evaluate.batch_tokens or batch_tokens(loaded.model.device),
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
        score=lambda loaded: evaluate(_view(config, loaded), rows, settings, prepared.renderer).values(),
        ids=[[int(i) for i in table.row(n)[0]] for n in range(len(table))],
    )


def recipe_of_run(path: Path, overrides: Sequence[str]) -> RunConfig:
    """The resolved recipe of a run, with overrides: another batch size, other data."""
    folder = open_run(path)
    values = apply_overrides(read_recipe(folder).model_dump(mode="json"), overrides)
    return build(RunConfig, values, where=str(folder.path / RECIPE))
