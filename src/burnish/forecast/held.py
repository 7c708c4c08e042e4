"""What regularizers take: copies of the original, importances, and the original's own forward pass beside the run's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedTokenizerBase

from burnish.adapters.registry import METHODS
from burnish.core.types import Batch, Term
from burnish.data.batches import Layout, collate, micro_batches
from burnish.data.table import TokenTable
from burnish.models.head import head_of
from burnish.plan.shadow import Shadow
from burnish.regularizers.base import Matrix, RegularizerConfig, Subject
from burnish.regularizers.distill import DistillConfig
from burnish.regularizers.ewc import EWCConfig
from burnish.regularizers.l2_sp import L2SPConfig
from burnish.regularizers.registry import REGULARIZERS
from burnish.train.config import RunConfig
from burnish.train.regularizing import low_rank

FP32 = 4


@dataclass(frozen=True)
class Rows:
    """What regularizers ask of a run's data.

    Attributes:
        table: The training rows.
        tokenizer: What made them.
        layout: How rows lie in a batch.
        pad_id: Token that fills up.
        decoder_start: First token of an encoder-decoder's decoder.
        device: Kind of device.
    """

    table: TokenTable
    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    pad_id: int
    decoder_start: int | None
    device: str


@dataclass(frozen=True)
class Traced:
    """Terms that are asked for in the passes of a run, and the heaviest micro-batch that they bring."""

    terms: tuple[Term, ...] = ()
    batch: Batch | None = None


def held_bytes(config: RunConfig, shadow: Shadow, device: str) -> int:
    """Bytes that regularizers keep through the training.

    A frozen copy of the base where `distill` needs one; of `l2_sp` and `ewc` a copy of each trained tensor that is no
    low-rank update, counted in fp32, although bf16 may hold it; of `ewc` a number for each weight that it weighs.
    """
    matrices, covered = low_rank(shadow.attached)
    tensors = sum(p.numel() for _, p in shadow.attached.trainable() if id(p) not in covered)
    given = _Given(trains_base(config), shadow.stored, tensors, matrices, device)
    return sum(HELD.get(one.kind, lambda config, given: 0)(one, given) for one in config.regularizers)


def traced(config: RunConfig, shadow: Shadow, rows: Rows) -> Traced:
    """The terms of `distill`, which lets the original compute beside the run; penalties are asked for behind it."""
    terms: list[Term] = []
    batches: list[Batch] = []
    for one in config.regularizers:
        if isinstance(one, DistillConfig) and one.cache is None:
            readable = hasattr(rows.tokenizer, "encode")
            asked = one if readable else one.model_copy(update={"on": "task"})  # a plan without a model's files
            made = REGULARIZERS[one.kind].build(asked, subject_of(config, shadow, rows))
            terms += made.terms
            batches += made.further(0) if made.further is not None else []
    return Traced(tuple(terms), max(batches, key=lambda batch: batch["input_ids"].numel(), default=None))


def more_batches(config: RunConfig) -> bool:
    """Whether updates hold micro-batches beside those of the task, so that gradients of one are there in the next."""
    return config.data.replay is not None or any(
        isinstance(one, DistillConfig) and one.on != "task" for one in config.regularizers
    )


def trains_base(config: RunConfig) -> bool:
    """Whether the base's own weights are trained."""
    return any(METHODS[adapter.method].format == "model" for adapter in config.adapters)


def subject_of(config: RunConfig, shadow: Shadow, rows: Rows) -> Subject:
    """The run as its regularizers see it, made of shapes. A copy of the base is counted and not made."""
    batches = config.batches.settled(rows.device)
    return Subject(
        model=shadow.model,
        tokenizer=rows.tokenizer,
        matrices=(),
        tensors=(),
        keeps_base=True,
        head=head_of(shadow.model) if shadow.classifier is None else None,
        classifier=shadow.classifier,
        table=rows.table,
        collate=partial(collate, layout=rows.layout, pad_id=rows.pad_id, decoder_start_id=rows.decoder_start),
        cut=lambda numbers, lengths: micro_batches(numbers, lengths, batches, layout=rows.layout),
        computing=nullcontext,
        device=torch.device("cpu"),
        seed=config.seed,
        origin={},
    )


@dataclass(frozen=True)
class _Given:
    """What the size of an original follows from."""

    trains_base: bool
    base: int
    tensors: int
    matrices: Sequence[Matrix]
    device: str


def _of_distill(config: RegularizerConfig, given: _Given) -> int:
    assert isinstance(config, DistillConfig)
    return given.base if given.trains_base and config.cache is None else 0


def _of_l2_sp(config: RegularizerConfig, given: _Given) -> int:
    assert isinstance(config, L2SPConfig)
    return 0 if config.offload and given.device != "cpu" else FP32 * given.tensors


def _of_ewc(config: RegularizerConfig, given: _Given) -> int:
    assert isinstance(config, EWCConfig)
    sides = [matrix.sides for matrix in given.matrices]
    factored = config.fisher == "factored"
    return FP32 * (sum(a + b if factored else a * b for a, b in sides) + 2 * given.tensors)


HELD: Mapping[str, Callable[[RegularizerConfig, _Given], int]] = {
    "distill": _of_distill,
    "l2_sp": _of_l2_sp,
    "ewc": _of_ewc,
}
