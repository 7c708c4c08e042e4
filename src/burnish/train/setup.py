"""From a recipe to all that a run works with; whatever can be refused is refused here, before a file is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from burnish.adapters import training
from burnish.adapters.attach import Attached, attach
from burnish.adapters.lora import projection_of
from burnish.adapters.lora_loftq import start_from_whole
from burnish.adapters.registry import METHODS
from burnish.core.errors import UserError
from burnish.core.events import Callback, Noticed, Stage
from burnish.core.findings import Finding, refuse_stops
from burnish.core.types import Context, Term
from burnish.data.augmenting import trace_of
from burnish.data.batches import Layout, collate
from burnish.data.prepare import Prepared
from burnish.models.fuse import fuse
from burnish.models.head import head_of
from burnish.models.load import Loaded, pad_id
from burnish.models.recompute import checkpoint_activations
from burnish.models.route import name_tasks
from burnish.objectives.context import ModelContext
from burnish.objectives.replay import replay_terms, replayed_terms
from burnish.ops.machine import bound_product_caches, default_device, keep_memory, return_memory, use_all_cores
from burnish.optim.groups import build_optimizer
from burnish.train.chance import chance_loss
from burnish.train.config import RunConfig
from burnish.train.described import hashes, with_head
from burnish.train.distributed.engine import Engine, Whole
from burnish.train.eight_bits import refuse_impossible_precision, round_frozen
from burnish.train.environment import environment
from burnish.train.folder import RunFolder
from burnish.train.layout import decoder_start, settle_layout
from burnish.train.liveness import Watched
from burnish.train.loop import tell
from burnish.train.memory import keeping, refuse_impossible_memory
from burnish.train.mixed import MixedUpdates, mixed, replay_settings
from burnish.train.precision import Precision, choose_precision
from burnish.train.regularizing import Regularizing, regularizing
from burnish.train.sample import Rows
from burnish.train.settings import settings
from burnish.train.stages import Stages, Trained, plan_stages, total_steps
from burnish.train.task_parts import refuse_unnamed_tasks, watched_entries, watched_head
from burnish.train.tasks import HEAD_RATE_SCALE, load_new, load_whole, read_data_together, task_of
from burnish.train.updates import Updates

Foresee = Callable[[RunConfig, Prepared], list[Finding]]
"""Says what there is to say of a recipe and its rows before the weights are loaded."""

EVALUATIONS = 10
"""How often a run evaluates where the recipe does not say."""


@dataclass
class Setup:
    """A recipe, made ready.

    Attributes:
        config: The recipe.
        device: Where it runs.
        precision: Its number formats.
        prepared: Its rows, as tokens.
        loaded: Its model, with the adapters attached.
        attached: The adapters.
        layout: How rows lie in a batch.
        findings: What was noticed on the way.
        fused_layers: How many layers of the model run through fused operations.
        engine: What carries the run: one process, or several.
    """

    config: RunConfig
    device: torch.device
    precision: Precision
    prepared: Prepared
    loaded: Loaded
    attached: Attached
    layout: Layout
    findings: list[Finding]
    fused_layers: int = 0
    engine: Engine = field(default_factory=Engine)

    @property
    def task_terms(self) -> list[Term]:
        """The objective of the task alone."""
        return task_of(self.config).terms(self.config, self.prepared)

    @property
    def learnt_terms(self) -> list[Term]:
        """The objective of the task, and that of replayed rows where there are any."""
        replay, own = self.prepared.replay, self.task_terms
        if replay is None:
            return own
        weight = replay.config.weight
        return [*own, *(replayed_terms(own, weight) if self.config.classifies else replay_terms(weight))]

    @property
    def terms(self) -> list[Term]:
        """The objective: the task's terms, those of replayed rows, of the adapters and those of the regularizers."""
        return [*self.learnt_terms, *training.terms(self.attached), *self.regularizing.terms]

    @cached_property
    def regularizing(self) -> Regularizing:
        """The regularizers; first asked for before any update, so that they know the original weights."""
        return regularizing(self)

    @property
    def decoder_start(self) -> int | None:
        """The first token of an encoder-decoder's decoder, None for other models."""
        return decoder_start(self.loaded)

    @cached_property
    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that are trained."""
        head = self.loaded.classifier
        return self.attached.trainable() + (head.named() if head is not None else [])

    @property
    def rate_scales(self) -> dict[str, float]:
        """Factors on the learning rate by parameter name: those of the methods and entries."""
        return self.attached.rate_scales()

    @property
    def head_scales(self) -> dict[str, float]:
        """Factor on the learning rate for a new head beside each entry: the recipe's, or what suits its rates."""
        if self.loaded.classifier is None:
            return {}
        given, own = getattr(self.config.task, "head_rate_scale", None), task_of(self.config).head_rate_scales
        configs = zip(self.attached.keys, self.attached.configs, strict=True)
        return {key: given or own.get(config.method, HEAD_RATE_SCALE) for key, config in configs}

    @cached_property
    def updates(self) -> Updates | MixedUpdates:
        """The micro-batches of every update, with those of replayed rows."""
        rows, tasks = self.prepared.replay, bool(self.config.data.tasks)
        pad, start = pad_id(self.loaded.tokenizer), decoder_start(self.loaded)
        return self.task_updates if rows is None else mixed(self.task_updates, rows, pad, start, tasks)

    @cached_property
    def task_updates(self) -> Updates:
        """The micro-batches of every update, of the task's own rows."""
        train = self.config.train
        return Updates(
            self.prepared.train.lengths,
            train.batch_size,
            seed=self.config.seed,
            batches=self.config.batches.settled(self.device.type),
            layout=self.layout,
            collate=partial(
                collate,
                self.prepared.train,
                layout=self.layout,
                pad_id=pad_id(self.loaded.tokenizer),
                decoder_start_id=self.decoder_start,
            ),
            accumulation=train.gradient_accumulation_steps,
            num_epochs=train.num_epochs,
            max_steps=total_steps(self.config.stages, self.steps_per_epoch) or train.max_steps,
            shuffle=self.config.data.shuffle,
            share=self.engine.share,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Updates of one pass over the training rows."""
        return math.ceil(len(self.prepared.train) / self.config.train.batch_size)

    @cached_property
    def stages(self) -> Stages:
        """What is trained at every update, and how fast."""
        own = task_of(self.config).rates
        rates = {
            key: own.get(config.method, rate)
            for (key, rate), config in zip(self.attached.learning_rates().items(), self.attached.configs, strict=True)
        }
        entries = {key: frozenset(name for name, _ in self.attached.trainable(key)) for key in self.attached.keys}
        trained = Trained(tuple(name for name, _ in self.trainable), entries, rates, self.rate_scales, self.head_scales)
        return plan_stages(self.config.stages, self.config.train, trained, len(self.updates), self.steps_per_epoch)

    @property
    def watched(self) -> dict[str, tuple[Watched, ...]]:
        """Of the parameters that rows of some tasks only reach: what to watch of each, by name."""
        head = self.loaded.classifier
        found = watched_entries(self.attached)
        return found | watched_head(head) if head is not None else found

    @property
    def learning_rate(self) -> tuple[float, str]:
        """The peak learning rate of the first stage, and where it comes from."""
        return self.stages.stages[0].peak

    @property
    def evaluate_every(self) -> int:
        """Updates between two evaluations."""
        return self.config.evaluate.every_steps or max(1, len(self.updates) // EVALUATIONS)

    def optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimiser over the trained parameters."""
        return build_optimizer(
            self.trainable,
            self.config.train,
            self.learning_rate[0],
            rate_scales=self.stages.scales(),
            kind=self.config.memory.optimizer,
        )

    def hand_to_engine(self) -> None:
        """Let the engine take the model over; what it makes of the weights is what is trained from here on."""
        mapped = self.loaded.mapped and self.device.type == "cpu"
        self.engine.prepare(Whole(self.loaded.model, self.loaded.classifier, mapped=mapped), self.trainable)
        del self.trainable

    def keeping(self) -> AbstractContextManager[object]:
        """The context of a forward pass that decides where its activations wait for the backward pass."""
        return keeping(self.config.memory, self.loaded.model)

    def context(self) -> Context:
        """A view of the model for one micro-batch."""
        if self.loaded.classifier is not None:
            return ModelContext(self.loaded.model, classifier=self.loaded.classifier)
        return ModelContext(self.loaded.model, self._head)

    def prepare_adapters(self) -> None:
        """Set initial values that come from training rows; the same ones every time, so also when a run is resumed."""
        rows = Rows(self.loaded.model, self.task_updates, self.task_terms, self.context, self.precision, self.device)
        training.prepare(self.attached, rows.sample, self.config.seed)
        start_from_whole(self.attached, partial(load_whole, self.config))
        head = self.loaded.classifier
        for _, parameter in self.attached.trainable() + (head.named() if head is not None else []):
            parameter.grad = None

    @cached_property
    def _head(self) -> Any:
        return head_of(self.loaded.model)

    def describe(self) -> dict[str, Any]:
        """The contents of ``model.json``."""
        value, reason = self.learning_rate
        origin = self.loaded.origin
        return {
            "path": self.loaded.path,
            "kind": self.loaded.kind,
            "model_type": origin["model_type"],
            "origin": origin,
            "task": self.config.task.kind,
            **with_head(self.attached.describe(), self.loaded),
            "layout": self.layout,
            "fused_layers": self.fused_layers,
            "updates": len(self.updates),
            "chance_loss": chance_loss(self.loaded, self.prepared.train),
            "device": str(self.device),
            "precision": self.precision.to_json(),
            "learning_rate": {"value": value, "reason": reason},
            "stages": self.stages.describe(),
        }

    def write(self, folder: RunFolder) -> None:
        """Write what is known before the first update."""
        folder.write_recipe(self.config.model_dump(mode="json"))
        folder.write("environment.json", environment(self.device))
        folder.write("data.json", self.prepared.summary)
        if self.prepared.augmented:
            rows = ({"id": e.id, "label": e.label, **trace_of(e)} for e in self.prepared.augmented)
            folder.write_rows("augmented.jsonl", rows)
        folder.write("model.json", self.describe())
        folder.note(self.findings)

    def refuse_changes(self, folder: RunFolder) -> None:
        """Refuse to resume when the rows or the base model are no longer those that the run was started with."""
        before, now = (hashes(summary) for summary in (folder.read("data.json") or {}, self.prepared.summary))
        if before != now:
            raise UserError(
                "the data gives other rows than when the run was started",
                where=str(folder.path / "data.json"),
                fix="bring the data back, or start a new run",
            )
        origin = (folder.read("model.json") or {}).get("origin", {})
        if origin.get("sha256") != self.loaded.origin.get("sha256"):
            raise UserError(
                "the base model's weights are not those that the run was started with",
                where=self.loaded.path,
                fix="bring the model back, or start a new run",
            )


def set_up(
    config: RunConfig,
    callbacks: Sequence[Callback] = (),
    foresee: Foresee = lambda config, prepared: [],
    engine: Engine | None = None,
) -> Setup:
    """Read the data, load the model and attach the adapters.

    Args:
        config: The recipe.
        callbacks: Told of stages and findings.
        foresee: Asked between the data and the weights.
        engine: What carries the run; one process without it.

    Raises:
        UserError: Anything about recipe, data or model is refused.
    """
    use_all_cores()
    bound_product_caches()
    engine, device = engine or Engine(), default_device()
    refuse_impossible_memory(config.memory, device)
    refuse_impossible_precision(config.train.precision, device)
    tell(callbacks, Stage("reading and rendering the data"))
    prepared, notes = read_data_together(config, engine.group)
    config = task_of(config).settle(config, prepared)
    foreseen = engine.group.of_main(engine.group.on_main(partial(foresee, config, prepared))) or []
    findings = [*notes, *prepared.findings, *foreseen]
    for finding in findings:
        tell(callbacks, Noticed(finding))
    refuse_stops(findings)
    tell(callbacks, Stage("loading the model"))
    trains_base = any(METHODS[adapter.method].format == "model" for adapter in config.adapters)
    precision = engine.group.of_main(choose_precision(config.train.precision, device, trains_base=trains_base))
    loaded = load_new(config, precision.base, engine.group if engine.parts_weights else None)
    loaded.model.to(device)  # type: ignore[arg-type]
    if loaded.classifier is not None:
        loaded.classifier.to(device)
    layout = settle_layout(config, loaded)
    refuse_unnamed_tasks(config)
    config = with_tokens(config, loaded)
    attached = attach(loaded.model, config.adapters, seed=config.seed)
    name_tasks(loaded.model, loaded.classifier.class_tasks if loaded.classifier is not None else ())
    with precision.context(device):
        fused = fuse(loaded.model, projection_of) if layout == "packed" else 0
    if config.train.gradient_checkpointing:
        checkpoint_activations(loaded.model, selective=config.train.gradient_checkpointing == "selective")
    setup = Setup(config, device, precision, prepared, loaded, attached, layout, findings, fused, engine)
    setup.prepare_adapters()
    refuse_untrained_head(setup)
    with_regularizers(setup, callbacks)
    setup.hand_to_engine()
    # not before: what reading and loading free goes back, so that it leaves no holes
    return_memory() if engine.parts_weights else keep_memory()
    rounded = round_frozen(setup) if precision.eight else []
    for finding in [*rounded, *settings(setup), *replay_settings(setup.updates)]:
        findings.append(finding)
        tell(callbacks, Noticed(finding))
    setup.updates  # noqa: B018  # made now, so that a contradiction in it is refused now
    setup.optimizer()
    setup.stages.learning_rate(0)
    return setup


def with_regularizers(setup: Setup, callbacks: Sequence[Callback]) -> None:
    """Make the regularizers now, before a weight has moved."""
    if setup.config.regularizers:
        tell(callbacks, Stage("making ready what holds the model near the original one"))
    for finding in setup.regularizing.notes:
        setup.findings.append(finding)
        tell(callbacks, Noticed(finding))


def with_tokens(config: RunConfig, loaded: Loaded) -> RunConfig:
    """The recipe with what its method leaves to the tokenizer filled in, such as the tokens of a prompt's text."""
    resolved = tuple(
        resolve(adapter, loaded.tokenizer) if (resolve := METHODS[adapter.method].resolve) else adapter
        for adapter in config.adapters
    )
    if resolved == config.adapters:
        return config
    return config.model_copy(update={"adapter": resolved if isinstance(config.adapter, tuple) else resolved[0]})


def refuse_untrained_head(setup: Setup) -> None:
    """Refuse a head that was newly made and would stay as it was drawn.

    Raises:
        UserError: A parameter of the head is not among those that are trained.
    """
    head = setup.loaded.classifier
    trained = {id(p) for _, p in setup.trainable if p.requires_grad}
    idle = [name for name, p in (head.named() if head is not None else []) if id(p) not in trained]
    if idle:
        raise UserError(
            f"the head was newly made and is not trained, so it would answer at chance: {', '.join(idle)}",
            where="task",
            fix="train it: it has to be among the trained parameters, with gradients",
        )
