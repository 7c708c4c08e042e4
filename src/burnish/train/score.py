"""Scoring within a run: the base model once, the validation rows during training, the tuned model at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from burnish.core.errors import UserError
from burnish.core.events import Advanced, Callback, Noticed, Stage
from burnish.core.files import write_atomic
from burnish.core.findings import Finding
from burnish.data.render import Renderer
from burnish.data.table import TokenTable
from burnish.evaluate.by_task import compare_tasks, majority_of_tasks
from burnish.evaluate.calibration import effect, fit_temperature
from burnish.evaluate.classification import Classified
from burnish.evaluate.deal import Deal
from burnish.evaluate.head_rows import HeadResult
from burnish.evaluate.loss import RowLosses, View, batch_tokens
from burnish.evaluate.run import Evaluation, Split, compare, evaluate, learnt_nothing, predictions
from burnish.evaluate.speed import measure_speed
from burnish.evaluate.text import require_metrics
from burnish.models.generate_tasks import generate_tasks
from burnish.objectives.config import ClassificationTask
from burnish.train.distributed.scoring import Scoring
from burnish.train.folder import RunFolder
from burnish.train.layout import decoder_start
from burnish.train.loop import tell
from burnish.train.retention import Retention
from burnish.train.setup import Setup

BASE_ARRAYS, BASE_ROWS, COLUMN = "base.safetensors", "base.jsonl", "column."
"""What was scored before training: numbers of every row, and answers of a head that says more than one class."""


@dataclass
class Scorer:
    """Scores the model of a run as it is at the moment of the call.

    Attributes:
        setup: The run.
        callbacks: Told of stages and progress.
    """

    setup: Setup
    callbacks: Sequence[Callback]

    def __post_init__(self) -> None:
        require_metrics(self.setup.config.evaluate.metrics)

    def ready(self) -> Scorer:
        """Prepare the held-out rows, so that what is wrong with them is refused before anything is written.

        Raises:
            UserError: A target is none of the choices, or there are no validation rows to choose a checkpoint by.
        """
        if not len(self.validation_split.table):
            raise UserError(
                "there are no validation rows, and they decide which weights are handed over",
                where="data.split.validation",
                fix="hold some out, such as `data.split.validation=0.05`",
            )
        assert self.held_out
        assert self.retention.rows is not None
        return self

    @cached_property
    def view(self) -> View:
        """How the model is called."""
        setup = self.setup
        return View(
            loaded=setup.loaded,
            layout=setup.layout,
            batch_tokens=setup.config.evaluate.batch_tokens or batch_tokens(setup.loaded),
            autocast=lambda: setup.precision.context(setup.device),
            decoder_start_id=decoder_start(setup.loaded),
            deal=Scoring(setup.engine) if setup.engine.group.size > 1 else Deal(),
        )

    @cached_property
    def retention(self) -> Retention:
        """What the model knew before, and how much of it is left."""
        return Retention(self.setup, replace(self.view, deal=Deal()), self.callbacks)

    @cached_property
    def renderer(self) -> Renderer:
        """How prompts become tokens."""
        return self.setup.prepared.renderer

    @cached_property
    def held_out(self) -> Split:
        """The rows that base and tuned model are compared on: the test rows, or without any the validation rows."""
        name = "test" if len(self.setup.prepared.test) else "validation"
        return self._split(name)

    @cached_property
    def validation_split(self) -> Split:
        """The rows that choose the best checkpoint."""
        return self._split("validation")

    def validation(self) -> dict[str, float]:
        """Metrics of the model as it is now on the validation rows."""
        return self.validated().values()

    def validated(self) -> Evaluation:
        """The model as it is now on the validation rows, row by row."""
        return self._evaluate(self.validation_split, quiet=True)

    def base(self) -> Evaluation:
        """Score the model before its first update."""
        if self.setup.attached.trains_base:
            return self._score("base")
        with self.setup.attached.disabled():  # what a fresh adapter adds is zero, and takes time
            return self._score("base")

    def settle_head(self, folder: RunFolder) -> None:
        """Choose on the validation rows what the head needs besides its numbers: a temperature, thresholds; say so."""
        self._calibrate()
        split, head = self.validation_split, self.setup.loaded.classifier
        if head is None or split.head is None or split.head.choose is None or split.rows is None:
            return
        tell(self.callbacks, Stage("choosing thresholds on the validation rows"))
        result = self._evaluate(split, quiet=True).result
        assert result is not None
        chosen, findings = split.head.choose(result.columns, head.settings, split.rows.renderer.labels)
        head.settings |= chosen
        folder.note(findings)
        for finding in findings:
            tell(self.callbacks, Noticed(finding))

    def tuned(self) -> Evaluation:
        """Score the model that is handed over."""
        return self._score("tuned")

    def _calibrate(self) -> None:
        """Fit the temperature of the head that is handed over, where the recipe asks for it."""
        task, head = self.setup.config.task, self.setup.loaded.classifier
        if head is None or not isinstance(task, ClassificationTask) or not task.calibrate:
            return
        tell(self.callbacks, Stage("fitting the temperature on the validation rows"))
        head.temperature = 1.0
        head.temperature = temperature_on(self.view, self.validation_split)

    def probe_rows(self) -> list[list[int]]:
        """A few held-out rows as token ids, to hold the files against the model in memory."""
        return [self.held_out.table.row(i)[0].tolist() for i in range(min(4, len(self.held_out.table)))]

    def samples(self) -> list[str]:
        """Generations on the first held-out rows."""
        config = self.setup.config.evaluate
        count = min(config.samples, len(self.held_out.table))
        if not count or self.setup.loaded.classifier is not None:
            return []
        prompts = [self.held_out.table.prompt(i).tolist() for i in range(count)]
        tell(self.callbacks, Stage(f"generating {count} samples"))
        tasks = self.held_out.table.tasks_of(range(count))
        answers = generate_tasks(self.setup.loaded, prompts, tasks, config.generate, self.view.batch_tokens)
        return [g.text for g in answers]

    def write(
        self, folder: RunFolder, base: Evaluation, tuned: Evaluation, samples: tuple[list[str], list[str]]
    ) -> None:
        """Write the comparison of base and tuned model."""
        split = self.held_out
        folder.write_rows("predictions.jsonl", predictions(split, base=base, tuned=tuned))
        rows = zip(split.examples[: len(samples[0])], *samples, strict=True)
        folder.write_rows(
            "samples.jsonl",
            [{"id": e.id, "prompt": e.prompt_text, "target": e.target_text, "base": b, "tuned": t} for e, b, t in rows],
        )
        if learnt_nothing(base, tuned):
            finding = nothing_learnt()
            folder.note([finding])
            tell(self.callbacks, Noticed(finding))
        result = {"split": split.name, "rows": split.questions, "base": base.to_json(), "tuned": tuned.to_json()}
        if self.setup.config.classifies:
            result["new_head"] = True
        if split.choices and split.unit == "row":
            result["majority"] = majority(self.setup.prepared.train, split)
        if split.class_tasks:
            result["tasks"] = compare_tasks(base, tuned, self.setup.prepared.train, split)
        if self.setup.config.evaluate.speed and split.choices:
            tell(self.callbacks, Stage("measuring latency and throughput"))
            result["speed"] = measure_speed(replace(self.view, deal=Deal()), split, self.setup.config.evaluate)
        head = self.setup.loaded.classifier
        if head is not None and head.temperature != 1.0:
            result["calibration"] = calibration(split, tuned.scores, head.temperature)
        if self.retention.found:
            result["retention"] = self.retention.found
        folder.write("evaluation.json", {**result, "comparison": compare(base, tuned)})

    def _score(self, which: str) -> Evaluation:
        split = self.held_out
        units = split.work(self.view)
        tell(self.callbacks, Stage(f"scoring the {which} model on {len(split.table)} {split.name} rows", units))
        return self._evaluate(split)

    def _split(self, name: str) -> Split:
        prepared = self.setup.prepared
        table: TokenTable = getattr(prepared, name)
        examples = prepared.examples[name]
        return Split.make(name, table, examples, self.setup.config.evaluate, self.renderer)

    def _evaluate(self, split: Split, quiet: bool = False) -> Evaluation:
        of = self.setup.engine.group.size  # all go equally far
        progress: Callable[[int], Any] | None = (
            None if quiet else lambda done: tell(self.callbacks, Advanced(done * of))
        )
        return evaluate(self.view, split, self.setup.config.evaluate, self.renderer, progress)


def temperature_on(view: View, split: Split) -> float:
    """The temperature that fits the rows of a split best, for a head whose own is 1."""
    return fit_temperature(split.score(view)[1], split.true)


def calibration(split: Split, scores: np.ndarray, temperature: float) -> dict[str, Any]:
    """A temperature, where it was fitted, and what it does to the rows of ``split``."""
    return {"fitted_on": "validation", "shown_on": split.name, **effect(scores, split.true, temperature)}


def store_base(folder: RunFolder, base: Evaluation, samples: list[str]) -> None:
    """Keep the base model's scores, so that a resumed run need not make them again."""
    arrays = {"totals": base.losses.totals, "counts": base.losses.counts, "scores": base.scores}
    if base.result:
        arrays |= {COLUMN + name: column for name, column in base.result.columns.items()}
        folder.write_rows(BASE_ROWS, base.result.rows)
    write_atomic(folder.path / BASE_ARRAYS, save({name: np.ascontiguousarray(one) for name, one in arrays.items()}))
    folder.write("base.json", {"samples": samples, "task": base.result.task if base.result else None})


def base_counts(folder: RunFolder) -> NDArray[np.float64]:
    """[N] how many units the loss of each held-out row is a sum over, of a run that has scored its base model."""
    path = folder.path / BASE_ARRAYS
    if path.is_file():
        return np.asarray(load_file(path)["counts"], dtype=np.float64)
    return np.asarray(folder.read("base.json")["counts"], dtype=np.float64)  # where runs kept them at first


def stored_base(folder: RunFolder, split: Split, scorer: Scorer) -> tuple[Evaluation, list[str]] | None:
    """The base model's scores as ``store_base`` wrote them; None without them, or where answers were generated."""
    saved, path = folder.read("base.json"), folder.path / BASE_ARRAYS
    if not saved or not path.is_file() or scorer.setup.config.evaluate.metrics:
        return None
    arrays = load_file(path)
    scores, classified = np.zeros((0, 0)), None
    if split.choices:
        scores = arrays["scores"].reshape(len(split.true), -1)
        classified = Classified.count(split.choices, split.true, scores.argmax(1))
    losses, seed = RowLosses(arrays["totals"], arrays["counts"]), scorer.setup.config.evaluate.seed
    base = Evaluation(split.name, losses, classified, scores, seed=seed, unit=split.unit, truth=split.true)
    base = replace(base, class_tasks=split.class_tasks)
    if split.rows and saved.get("task"):
        columns = {name.removeprefix(COLUMN): one for name, one in arrays.items() if name.startswith(COLUMN)}
        result = HeadResult.of(saved["task"], [(columns, folder.iter_rows(BASE_ROWS))])
        base = replace(base, result=result, labels=split.rows.renderer.labels)
    return base, saved["samples"]


def majority(train: TokenTable, split: Split) -> dict[str, Any]:
    """What the simplest of all classifiers reaches: the most frequent class of the training rows, for every row."""
    if split.class_tasks:
        return majority_of_tasks(train, split)
    top = int(np.bincount(train.labels, minlength=len(split.choices)).argmax())
    counted = Classified.count(split.choices, split.true, np.full(len(split.true), top))
    return {"label": split.choices[top], "accuracy": counted.accuracy, "macro_f1": counted.macro_f1}


def nothing_learnt() -> Finding:
    """The finding for a run that changed no answer."""
    return Finding(
        severity="warning",
        code="evaluate.nothing-learnt",
        what="the tuned model answers every held-out row exactly as the base model does: nothing was learnt",
        where="evaluation.json",
        why="A loss that is equal in every bit on every row means that the weights did not change what the model says.",
        fix="raise `train.learning_rate`, train longer, or look at what is trained in the report",
    )
