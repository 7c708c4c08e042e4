"""Runs that were trained one after the other: every run's model on every run's held-out rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.core.errors import UserError
from burnish.evaluate.retention.sequence import transfer
from burnish.evaluate.run import Evaluation, Split, evaluate
from burnish.models.load import Loaded
from burnish.ops.machine import bound_product_caches, default_device, keep_memory, use_all_cores
from burnish.train.config import RunConfig
from burnish.train.folder import open_run
from burnish.train.handover import load_handed_over, read_recipe
from burnish.train.precision import choose_precision
from burnish.train.rescore import split_of, view_of
from burnish.train.tasks import load_new, read_data

SCORES = ("accuracy", "exact_match", "token_f1")
"""What a task is scored by, the first that its recipe measures; else ``exp(-loss)``."""


@dataclass(frozen=True)
class TaskRows:
    """The held-out rows of one run, and how they are scored."""

    config: RunConfig
    split: Split
    renderer: Any

    def score(self, loaded: Loaded) -> tuple[str, float]:
        """The name of the score and its value for a model.

        Raises:
            UserError: The model splits text into other tokens than the rows are in.
        """
        if loaded.tokenizer.get_vocab() != self.renderer.tokenizer.get_vocab():
            raise UserError(
                "the runs have tokenizers of their own, so the rows of one are not those of the other",
                where=f"{self.config.name} and {loaded.path}",
                fix="name runs that started from one another, or from the same model",
            )
        found = evaluate(view_of(self.config, loaded), self.split, self.config.evaluate, self.renderer)
        return score_of(found)


def score_of(found: Evaluation) -> tuple[str, float]:
    """The name and value of a task's score: a share of rows, or the mean probability of a target token."""
    values = found.values()
    name = next((name for name in SCORES if name in values), None)
    return (name, values[name]) if name else ("exp(-loss)", math.exp(-values["loss"]))


def score_sequence(paths: Sequence[Path], tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """The matrix of scores of runs in the order in which they were trained, with transfer and forgetting.

    Args:
        paths: Finished runs, each started from the one before it (`model: MERGED-FOLDER`), the first from the base.
        tell: Told what is scored.

    Raises:
        UserError: There are fewer than two runs, one is not finished, or heads of classes are among them.
    """
    if len(paths) < 2:
        raise UserError("a sequence needs two runs or more", fix="name them in the order in which they were trained")
    configs = [read_recipe(open_run(path)) for path in paths]
    for config, path in zip(configs, paths, strict=True):
        if config.classifies:
            raise UserError(
                "the head of this run knows the classes of its own task only, and answers no other",
                where=str(path),
                fix="sequences are scored for models that write (`task: text`)",
            )
    use_all_cores()
    bound_product_caches()
    keep_memory()
    tasks = [_rows(config) for config in configs]
    tell("scoring the untouched model")
    base = [task.score(_base(configs[0])) for task in tasks]
    matrix = []
    for path in paths:
        tell(f"scoring {path}")
        loaded = load_handed_over(path, dtype=_format(configs[0]))
        matrix.append([task.score(loaded)[1] for task in tasks])
        del loaded
    return {
        "runs": [str(path) for path in paths],
        "metrics": [name for name, _ in base],
        "splits": [task.split.name for task in tasks],
        "rows": [task.split.questions for task in tasks],
        "base": [value for _, value in base],
        "scores": matrix,
        **transfer(matrix, [value for _, value in base]),
    }


def _rows(config: RunConfig) -> TaskRows:
    prepared = read_data(config, augment=False)
    name = "test" if len(prepared.test) else "validation"
    return TaskRows(config, split_of(config, prepared, name), prepared.renderer)


def _format(config: RunConfig) -> Any:
    return choose_precision(config.train.precision, default_device(), trains_base=False).base


def _base(config: RunConfig) -> Loaded:
    loaded = load_new(config, _format(config))
    loaded.model.to(default_device())  # type: ignore[arg-type]
    return loaded
