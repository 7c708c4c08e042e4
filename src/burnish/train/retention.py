"""The retention set within a run: scored before the first update, in part while it goes on, and at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from burnish.adapters.drift import Drift, adapter_drift, by_layer, weight_drift
from burnish.core.errors import UserError
from burnish.core.events import Action, Callback, Evaluated, Event, Noticed, Retained, Stage, Stepped
from burnish.core.files import write_atomic
from burnish.core.findings import Finding
from burnish.evaluate.config import RetentionConfig
from burnish.evaluate.loss import View
from burnish.evaluate.retention.change import between, describe, worst
from burnish.evaluate.retention.rows import RetentionRows, make_rows
from burnish.evaluate.retention.score import Said, listen
from burnish.evaluate.retention.sources import RetentionSet, read_set
from burnish.models.anatomy import numbered_modules
from burnish.models.load import load
from burnish.train.folder import RunFolder
from burnish.train.loop import tell
from burnish.train.setup import Setup
from burnish.train.tasks import task_of

FILE = "retention.safetensors"
"""What the original said, in the run folder."""
SHARE = 0.02
"""Of the training's work, for what is scored while it goes on. A forward pass is a third of an update's work."""


@dataclass
class Retention:
    """What the model of a run knew before, and how much of it is left.

    Attributes:
        setup: The run.
        view: How its model is called.
        callbacks: Told of stages and findings.
        found: The ``retention`` of ``evaluation.json``, once it is known.
    """

    setup: Setup
    view: View
    callbacks: Sequence[Callback]
    found: dict[str, Any] = field(default_factory=dict)
    _original: Said | None = None

    @property
    def config(self) -> RetentionConfig:
        """The recipe's settings."""
        return self.setup.config.evaluate.retention

    @cached_property
    def known(self) -> RetentionSet:
        """The texts and questions."""
        return read_set(self.config)

    @cached_property
    def rows(self) -> RetentionRows:
        """The same as tokens of this model."""
        virtual = self.setup.config.virtual_tokens
        asks = self.setup.loaded.classifier is None
        rows = make_rows(self.known, self.setup.loaded, self.config.max_length, virtual, asks)
        if self.config.on and not len(rows.texts) and not rows.items:
            raise UserError(
                "the retention set holds nothing that this model can be scored on: a head that is new answers no "
                "questions, and a text needs two tokens",
                where="evaluate.retention",
                fix="add rows with a `text`, or set `evaluate.retention=none`",
            )
        return rows

    @cached_property
    def part(self) -> tuple[RetentionRows, list[int]]:
        """The texts that are scored while the training goes on."""
        return self.rows.between(self.config.rows_between)

    def before(self, folder: RunFolder) -> None:
        """Score the original, or read what a run that is resumed wrote of it.

        Raises:
            UserError: The retention set is no longer what it was.
        """
        if not self.config.on:
            return
        self._original = stored(folder, self.known.digest)
        # the main process decides: another may see the file that the main one has just written
        if not self.setup.engine.group.of_main(self._original is not None):
            tell(self.callbacks, Stage(f"scoring what the model knows: {self._size()}"))
            with self._untouched():
                self._original = self.setup.engine.look(lambda: listen(self.view, self.rows))
            said = self._original
            self.setup.engine.group.on_main(lambda: store(folder, said, self.known.digest))

    def listener(self, heard: Sequence[Callback]) -> Callback:
        """A callback that scores some texts now and then, and tells the others."""

        def hear(event: Event) -> Action | None:
            if self._due(event):
                assert isinstance(event, (Evaluated, Stepped)) and self._original is not None
                rows, chosen = self.part
                before = self._original.take(chosen, self.rows.places)
                now = self.setup.engine.look(lambda: listen(self.view, rows, before, layers=False))
                measured = between(rows, before, now)
                del measured["domains"]
                tell(heard, Retained(step=event.step, epoch=event.epoch, metrics=measured))
            return None

        return hear

    def after(self, folder: RunFolder) -> None:
        """Score the model that is handed over, and say what was lost."""
        if not self.config.on:
            return
        assert self._original is not None
        tell(self.callbacks, Stage(f"scoring what the tuned model still knows: {self._size()}"))
        said = listen(self.view, self.rows, self._original)
        self.found = describe(self.rows, self._original, said, self.setup.config.evaluate.seed)
        self.found["sources"] = [{"path": path, "sha256": digest} for path, digest in self.known.sources]
        self._add_drift(self.found["layers"])
        finding = lost_finding(self.found, self.config)
        if finding:
            folder.note([finding])
            tell(self.callbacks, Noticed(finding))

    @property
    def every_evaluations(self) -> int:
        """At every how many evaluations some texts are scored, so that it costs at most ``SHARE``; 0 for never."""
        updates, tokens = len(self.setup.updates), self.part[0].n_tokens
        lengths = self.setup.prepared.train.lengths
        trained = updates * self.setup.config.train.batch_size * float(lengths.mean()) if len(lengths) else 0.0
        allowed = int(SHARE * 3 * trained / max(1, tokens))
        return math.ceil((updates / self.setup.evaluate_every) / allowed) if allowed else 0

    def _due(self, event: Event) -> bool:
        if not self.config.on or not len(self.rows.texts):
            return False
        if self.config.every_steps:
            return isinstance(event, Stepped) and event.step % self.config.every_steps == 0
        every = self.every_evaluations * self.setup.evaluate_every
        return isinstance(event, Evaluated) and bool(every) and event.step % every == 0

    def _untouched(self) -> AbstractContextManager[None]:
        """The original: without its adapters, or before its first update."""
        return nullcontext() if self.setup.attached.trains_base else self.setup.attached.disabled()

    def _size(self) -> str:
        asked = f", {len(self.rows.items)} questions" if self.rows.items else ""
        return f"{len(self.rows.texts)} texts{asked}"

    def _add_drift(self, layers: list[dict[str, Any]]) -> None:
        """Put how far the weights moved beside how far the hidden states did."""
        moved = by_layer(self._drifts())
        known = {row["layer"] for row in layers}
        layers += [{"layer": number} for number in moved if number not in known]
        for row in layers:
            row |= moved.get(row["layer"], {})
        layers.sort(key=lambda row: row["layer"])

    def _drifts(self) -> list[Drift]:
        setup = self.setup
        if not setup.attached.trains_base:
            return adapter_drift(setup.attached)
        headless = task_of(setup.config).headless
        original = load(setup.config.model, setup.precision.base, verify=False, headless=headless)
        numbers = {name: number for name, _, number in numbered_modules(setup.loaded.model)}
        after = {name: p.detach() for name, p in setup.attached.trainable()}
        layers = {name: numbers.get(name.rpartition(".")[0]) for name in after}
        before = dict(original.model.named_parameters())
        return [*weight_drift(before, after, layers), *adapter_drift(setup.attached)]


def store(folder: RunFolder, said: Said, digest: str) -> None:
    """Keep what the original said, so that a resumed run need not ask it again."""
    tensors: dict[str, np.ndarray] = {"losses": said.losses, "choices": said.choices}
    tensors |= {n: v for n, v in (("top_ids", said.top_ids), ("top_logs", said.top_logs)) if v is not None}
    tensors |= {f"layer.{number}": vectors for number, vectors in said.vectors.items()}
    write_atomic(folder.path / FILE, save(tensors, metadata={"retention_set": digest}))
    folder.write("retention.json", {"retention_set": digest})


def stored(folder: RunFolder, digest: str) -> Said | None:
    """What ``store`` wrote, or None.

    Raises:
        UserError: It was of another retention set.
    """
    path, note = folder.path / FILE, folder.read("retention.json")
    if not path.is_file() or not note:
        return None
    if note.get("retention_set") != digest:
        raise UserError(
            "the retention set is no longer the one that the run was started with",
            where=str(folder.path / "retention.json"),
            fix="bring the file back that `evaluate.retention` names, or start a new run",
        )
    tensors = load_file(path)
    layers = {int(n.removeprefix("layer.")): v for n, v in tensors.items() if n.startswith("layer.")}
    return Said(
        tensors["losses"],
        tensors.get("top_ids"),
        tensors.get("top_logs"),
        choices=tensors["choices"],
        vectors=layers,
    )


def lost_finding(found: dict[str, Any], config: RetentionConfig) -> Finding | None:
    """The warning that something was lost, where that is beyond the noise of the texts.

    What a new head reads drifts whenever it is trained, and its cosine says nothing of abilities: no warning.
    """
    score = found["change"]["score"]
    if found["measure"] != "predictions" or not score["high"] < config.warn_below:
        return None
    parts = ", ".join(f"{name} {value:.1%}" for name, value in worst(found))
    return Finding(
        severity="warning",
        code="forgetting.lost",
        what=f"the tuned model lost {1 - score['value']:.1%} of what it knew (95 % interval {1 - score['high']:.1%} to "
        f"{1 - score['low']:.1%}); least is left of: {parts}",
        where="evaluation.json",
        why="General texts and questions, which the training rows have nothing to do with, are predicted worse than "
        "before. The loss on the task does not show it.",
        fix="mix general rows in (`data.replay.ratio=0.2`), hold the predictions near the original "
        "(`regularizers=[distill]`), lower `train.learning_rate`, or use `burnish interpolate`: docs/forgetting.md",
        evidence={"score": score, "threshold": config.warn_below},
    )
