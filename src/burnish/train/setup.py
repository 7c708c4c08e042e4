"""From a recipe to all that a run works with; whatever can be refused is refused here, before a file is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import nn

from burnish.adapters.attach import Attached, attach
from burnish.adapters.registry import METHODS
from burnish.core.errors import UserError
from burnish.core.events import Callback, Noticed, Stage
from burnish.core.findings import Finding, refuse_stops
from burnish.core.types import Context, Term
from burnish.data.batches import Layout, choose_layout, collate
from burnish.data.prepare import Prepared, prepare
from burnish.models.forward import supports_packing
from burnish.models.head import head_of
from burnish.models.load import Loaded, load, load_model_config, load_tokenizer, pad_id
from burnish.models.recompute import checkpoint_activations
from burnish.objectives.context import ModelContext
from burnish.objectives.sft import supervised_terms
from burnish.ops.machine import default_device, keep_memory, use_all_cores
from burnish.optim.groups import build_optimizer
from burnish.optim.schedule import learning_rate_at
from burnish.train.config import RunConfig
from burnish.train.environment import environment
from burnish.train.folder import RunFolder
from burnish.train.loop import tell
from burnish.train.memory import keeping, refuse_impossible_memory
from burnish.train.precision import Precision, choose_precision
from burnish.train.updates import Updates

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
    """

    config: RunConfig
    device: torch.device
    precision: Precision
    prepared: Prepared
    loaded: Loaded
    attached: Attached
    layout: Layout
    findings: list[Finding]

    @property
    def terms(self) -> list[Term]:
        """The objective."""
        return supervised_terms()

    @cached_property
    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that are trained."""
        return self.attached.trainable()

    @cached_property
    def updates(self) -> Updates:
        """The micro-batches of every update."""
        train = self.config.train
        return Updates(
            self.prepared.train.lengths,
            train.batch_size,
            seed=self.config.seed,
            batches=self.config.batches,
            layout=self.layout,
            collate=partial(
                collate,
                self.prepared.train,
                layout=self.layout,
                pad_id=pad_id(self.loaded.tokenizer),
                decoder_start_id=decoder_start(self.loaded),
            ),
            accumulation=train.gradient_accumulation_steps,
            num_epochs=train.num_epochs,
            max_steps=train.max_steps,
            shuffle=self.config.data.shuffle,
        )

    @property
    def learning_rate(self) -> tuple[float, str]:
        """The peak learning rate and where it comes from."""
        given = self.config.train.learning_rate
        return (given, "the recipe says so") if given is not None else self.attached.learning_rate

    @property
    def evaluate_every(self) -> int:
        """Updates between two evaluations."""
        return self.config.evaluate.every_steps or max(1, len(self.updates) // EVALUATIONS)

    def schedule(self, step: int) -> float:
        """Learning rate of an update."""
        return learning_rate_at(step, len(self.updates), self.config.train, self.learning_rate[0])

    def optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimiser over the trained parameters."""
        return build_optimizer(
            self.trainable,
            self.config.train,
            self.learning_rate[0],
            rate_scales=self.attached.rate_scales(),
            kind=self.config.memory.optimizer,
        )

    def keeping(self) -> AbstractContextManager[object]:
        """The context of a forward pass that decides where its activations wait for the backward pass."""
        return keeping(self.config.memory, self.loaded.model)

    def context(self) -> Context:
        """A view of the model for one micro-batch."""
        return ModelContext(self.loaded.model, self._head)

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
            **self.attached.describe(),
            "layout": self.layout,
            "updates": len(self.updates),
            "device": str(self.device),
            "precision": self.precision.to_json(),
            "learning_rate": {"value": value, "reason": reason},
        }

    def write(self, folder: RunFolder) -> None:
        """Write what is known before the first update."""
        folder.write_recipe(self.config.model_dump(mode="json"))
        folder.write("environment.json", environment(self.device))
        folder.write("data.json", self.prepared.summary)
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


def set_up(config: RunConfig, callbacks: Sequence[Callback] = ()) -> Setup:
    """Read the data, load the model and attach the adapters.

    Raises:
        UserError: Anything about recipe, data or model is refused.
    """
    use_all_cores()
    keep_memory()
    device = default_device()
    refuse_impossible_memory(config.memory, device)
    tell(callbacks, Stage("reading and rendering the data"))
    prepared = read_data(config)
    findings = list(prepared.findings)
    for finding in findings:
        tell(callbacks, Noticed(finding))
    refuse_stops(findings)
    tell(callbacks, Stage("loading the model"))
    trains_base = METHODS[config.adapter.method].format == "model"
    precision = choose_precision(config.train.precision, device, trains_base=trains_base)
    loaded = load(config.model, precision.base)
    loaded.model.to(device)  # type: ignore[arg-type]
    layout = settle_layout(config, loaded)
    attached = attach(loaded.model, config.adapter, seed=config.seed)
    if config.train.gradient_checkpointing:
        checkpoint_activations(loaded.model, selective=config.train.gradient_checkpointing == "selective")
    setup = Setup(config, device, precision, prepared, loaded, attached, layout, findings)
    for finding in settings(setup):
        findings.append(finding)
        tell(callbacks, Noticed(finding))
    setup.updates  # noqa: B018  # made now, so that a contradiction in it is refused now
    setup.optimizer()
    setup.schedule(0)
    return setup


def hashes(summary: Mapping[str, Any]) -> dict[str, str]:
    """The hash of every split's tokens and masks."""
    return {name: split.get("sha256") for name, split in summary.get("splits", {}).items()}


def read_data(config: RunConfig) -> Prepared:
    """The rows of a recipe as tokens; needs the tokenizer, not the weights."""
    tokenizer = load_tokenizer(config.model)
    kind: Literal["causal", "seq2seq"] = "seq2seq" if load_model_config(config.model).is_encoder_decoder else "causal"
    return prepare(config.data, tokenizer, kind, config.seed)


def settle_layout(config: RunConfig, loaded: Loaded) -> Layout:
    """The layout of the batches.

    Raises:
        UserError: The recipe asks for packing and the model does not keep packed rows apart.
    """
    packable = loaded.kind == "causal" and supports_packing(loaded.model)
    layout = choose_layout(config.batches, packable)
    if layout == "packed" and not packable:
        raise UserError(
            f"rows of `{loaded.origin['model_type']}` models cannot be packed",
            where="batches.layout",
            fix="use `batches.layout=bucketed`, or leave it to `auto`",
        )
    return layout


def decoder_start(loaded: Loaded) -> int | None:
    """The first token of an encoder-decoder's decoder, None for a causal model."""
    if loaded.kind == "causal":
        return None
    config = loaded.model.config
    value = getattr(config, "decoder_start_token_id", None)
    value = value if value is not None else getattr(loaded.model.generation_config, "decoder_start_token_id", None)
    return int(value) if value is not None else pad_id(loaded.tokenizer)


def settings(setup: Setup) -> list[Finding]:
    """What was decided for the user, each with its reason."""
    value, reason = setup.learning_rate
    share = setup.attached.parameters_count / max(1, setup.loaded.origin["parameters"])
    formats = setup.precision.to_json()
    return [
        _note("train.learning-rate", f"learning rate {value:g}: {reason}", "train.learning_rate"),
        _note("train.precision", f"computes in {formats['compute']}: {formats['reason']}", "train.precision"),
        _note(
            "train.parameters",
            f"{setup.attached.parameters_count:,} parameters are trained ({share:.2%} of the model) "
            f"at {len(setup.attached.sites)} sites; rows are {setup.layout}",
            "adapter",
        ),
    ]


def _note(code: str, what: str, where: str) -> Finding:
    return Finding(severity="note", code=code, what=what, where=where)
