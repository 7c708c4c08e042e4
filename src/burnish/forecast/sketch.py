"""A recipe as its plan sees it: the shapes of its model, its heaviest micro-batch and its objective; no weight is read.

The number of micro-batches is a matter of memory alone. What decides the result, the rows of an update, is never
changed by a plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from burnish.adapters.registry import METHODS
from burnish.core.types import Term
from burnish.data.batches import Layout, choose_layout, collate
from burnish.data.prepare import Prepared
from burnish.data.render import Rendered
from burnish.data.table import TokenTable
from burnish.models.forward import assume_packing
from burnish.models.load import load_model_config, pad_id
from burnish.models.shapes import built
from burnish.objectives.replay import replay_terms
from burnish.ops.machine import default_device
from burnish.train.config import RunConfig
from burnish.train.distributed.shares import Share
from burnish.train.mixed import MixedUpdates, mixed
from burnish.train.precision import NAMES, Precision, choose_precision
from burnish.train.stages import total_steps
from burnish.train.tasks import read_data, task_of
from burnish.train.updates import Updates


@dataclass(frozen=True)
class Sketch:
    """Everything of a run that decides its memory.

    Attributes:
        config: The recipe, settled on its data.
        values: The model's configuration.
        precision: Its number formats.
        prepared: Its rows.
        tokenizer: What made them.
        device: The kind of device that the run is for, ``cpu`` or ``cuda``.
        share: The process that is planned; the longest row of an update is the first one's.
    """

    config: RunConfig
    values: PreTrainedConfig
    precision: Precision
    prepared: Prepared
    tokenizer: PreTrainedTokenizerBase
    device: str = "cpu"
    share: Share = field(default_factory=Share)

    @property
    def layout(self) -> Layout:
        """How rows lie in a batch."""
        few = None if layers_of(self.values) is None else 1
        return choose_layout(self.config.batches, assume_packing(self.shapes(few)) is not None)

    def shapes(self, layers: int | None = None) -> PreTrainedModel:
        """The model on the meta device, with so many of its layers."""
        values = self.values if layers is None else with_layers(self.values, layers)
        model = self.config.model
        return built(values, model.path, headless=self.config.classifies, trust=model.trust_remote_code)

    @property
    def decoder_start(self) -> int | None:
        """The first token of an encoder-decoder's decoder, None for other models."""
        start = getattr(self.values, "decoder_start_token_id", None)
        seq2seq = bool(getattr(self.values, "is_encoder_decoder", False))
        return (start if start is not None else pad_id(self.tokenizer)) if seq2seq else None

    def all_updates(self) -> Updates | MixedUpdates:
        """The micro-batches of every update, with those of replayed rows."""
        task, rows = self.updates(), self.prepared.replay
        if rows is None:
            return task
        return mixed(task, rows, pad_id(self.tokenizer), self.decoder_start, bool(self.config.data.tasks))

    def updates(self) -> Updates:
        """The micro-batches of the task's own rows, as the run will cut them."""
        config, train = self.config, self.config.train
        return Updates(
            self.prepared.train.lengths,
            train.batch_size,
            seed=config.seed,
            batches=config.batches.settled(self.device),
            layout=self.layout,
            collate=partial(
                collate,
                self.prepared.train,
                layout=self.layout,
                pad_id=pad_id(self.tokenizer),
                decoder_start_id=self.decoder_start,
            ),
            accumulation=train.gradient_accumulation_steps,
            num_epochs=train.num_epochs,
            max_steps=total_steps(config.stages, -(-len(self.prepared.train) // train.batch_size)) or train.max_steps,
            shuffle=config.data.shuffle,
            share=self.share,
        )

    def terms(self) -> list[Term]:
        """The objective of the task, and that of replayed rows where there are any."""
        replay = self.prepared.replay
        replayed = replay_terms(replay.config.weight) if replay is not None else ()
        return [*task_of(self.config).terms(self.config, self.prepared), *replayed]

    def with_config(self, config: RunConfig) -> Sketch:
        """The same data under another recipe."""
        return replace(self, config=config, precision=precision_of(config, self.device, self.precision.compute))


def sketch_of(config: RunConfig, device: str | None = None, values: PreTrainedConfig | None = None) -> Sketch:
    """Read what a plan needs: the data, as the run will see it, and the model's configuration.

    Args:
        config: The recipe.
        device: The kind of device; that of this machine if None.
        values: Another model's configuration, whose shapes are planned with the recipe's rows.

    Raises:
        UserError: Recipe, data or model are refused.
    """
    prepared = read_data(config)
    return sketched(task_of(config).settle(config, prepared), prepared, device, values)


def sketched(
    config: RunConfig, prepared: Prepared, device: str | None = None, values: PreTrainedConfig | None = None
) -> Sketch:
    """The sketch of a recipe whose data was read and that is settled on it."""
    device = device or default_device().type
    values = values if values is not None else load_model_config(config.model)
    return Sketch(config, values, precision_of(config, device), prepared, prepared.renderer.tokenizer, device)


def precision_of(config: RunConfig, device: str, known: torch.dtype | None = None) -> Precision:
    """The number formats of a recipe; ``known`` spares measuring which is faster.

    A card that is not at hand is taken for one with bf16.
    """
    trains_base = any(METHODS[adapter.method].format == "model" for adapter in config.adapters)
    name = config.train.precision
    if known is None and device != default_device().type:
        known = torch.bfloat16
    if known is not None and name == "auto":
        name = NAMES[known]  # type: ignore[assignment]
    return choose_precision(name, default_device(), trains_base=trains_base)


def blank(config: RunConfig, values: PreTrainedConfig, device: str) -> Sketch:
    """The sketch of a run over rows of the longest length, where there is no data and no tokenizer to read.

    The first three quarters of a row are its prompt.
    """
    length = config.data.render.max_length
    prompt = 3 * length // 4
    row = Rendered([0] * length, [place >= prompt for place in range(length)], [0] * prompt, [], length)
    table = TokenTable.build([str(i) for i in range(config.train.batch_size)], [row] * config.train.batch_size)
    prepared = Prepared(table, table, table, {}, [], {}, Any)  # type: ignore[arg-type]
    pad = SimpleNamespace(pad_token_id=0, eos_token_id=0)
    return Sketch(config, values, precision_of(config, device), prepared, pad, device)  # type: ignore[arg-type]


def layers_of(values: PreTrainedConfig) -> int | None:
    """The number of a model's layers where all are alike; None where they are not, or nothing says so."""
    count: Any = getattr(values, "num_hidden_layers", None)
    kinds = set(getattr(values, "layer_types", None) or ())
    alike = len(kinds) <= 1 and not getattr(values, "is_encoder_decoder", False)
    return count if isinstance(count, int) and alike else None


def with_layers(values: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The configuration with so many layers."""
    changed = values.to_dict()
    changed["num_hidden_layers"] = layers
    if changed.get("layer_types"):
        changed["layer_types"] = changed["layer_types"][:layers]
    return type(values).from_dict(changed)
