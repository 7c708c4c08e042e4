"""From a run that is set up to what its regularizers may look at, and the terms that they make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from burnish.adapters import peft_format
from burnish.adapters.attach import Attached
from burnish.adapters.lora_layers import LowRank, turned
from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.core.types import Batch, Term
from burnish.data.batches import Layout, collate, micro_batches
from burnish.data.config import SourceConfig
from burnish.data.prepare import Prepared
from burnish.data.table import TokenTable
from burnish.evaluate.config import GENERAL
from burnish.evaluate.retention.sources import SHIPPED
from burnish.models.head import Head, head_of
from burnish.models.load import Loaded, pad_id
from burnish.regularizers.base import Matrix, Subject
from burnish.regularizers.registry import REGULARIZERS
from burnish.train.config import RunConfig
from burnish.train.folder import RunFolder, is_run
from burnish.train.precision import Precision

Further = Callable[[int], Sequence[Batch]]


class Run(Protocol):
    """What is asked of a recipe that was made ready (`setup.Setup`)."""

    @property
    def config(self) -> RunConfig: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def prepared(self) -> Prepared: ...
    @property
    def loaded(self) -> Loaded: ...
    @property
    def attached(self) -> Attached: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def decoder_start(self) -> int | None: ...


@dataclass(frozen=True)
class Regularizing:
    """What the regularizers of a run come to.

    Attributes:
        terms: Their terms.
        sources: Each gives further micro-batches of an update, from its number.
        notes: What a user should know.
    """

    terms: tuple[Term, ...] = ()
    sources: tuple[Further, ...] = ()
    notes: tuple[Finding, ...] = ()

    def further(self, step: int) -> list[Batch]:
        """Micro-batches of an update beside those of the task."""
        return [batch for source in self.sources for batch in source(step)]


def regularizing(run: Run) -> Regularizing:
    """The terms of a run's regularizers, made from the weights as they are now: before the first update.

    Raises:
        UserError: A regularizer does not fit the run.
    """
    if not run.config.regularizers:
        return Regularizing()
    subject = subject_of(run)
    made = [REGULARIZERS[config.kind].build(config, subject) for config in run.config.regularizers]
    return Regularizing(
        tuple(term for one in made for term in one.terms),
        tuple(one.further for one in made if one.further is not None),
        tuple(note for one in made for note in one.notes),
    )


def subject_of(run: Run) -> Subject:
    """The run as regularizers see it."""
    matrices, covered = low_rank(run.attached)
    tensors = [(name, p) for name, p in run.attached.trainable() if id(p) not in covered]
    batches = run.config.batches.settled(run.device.type)
    return Subject(
        model=run.loaded.model,
        tokenizer=run.loaded.tokenizer,
        matrices=matrices,
        tensors=tensors,
        keeps_base=not run.attached.trains_base,
        head=_head(run.loaded),
        classifier=run.loaded.classifier,
        table=run.prepared.train,
        collate=partial(_collated, run),
        cut=lambda rows, lengths: micro_batches(rows, lengths, batches, layout=run.layout),
        computing=partial(_computing, run),
        device=run.device,
        seed=run.config.seed,
        origin=run.loaded.origin,
        held_out=held_out(run.config),
        earlier=earlier_factors,
    )


def low_rank(attached: Attached) -> tuple[list[Matrix], set[int]]:
    """Low-rank updates of frozen matrices, and the parameters that they are made of.

    An update that is more than a product, such as DoRA's, is none of them: its parameters count one by one.
    """
    matrices, covered = list[Matrix](), set[int]()
    for item in attached.placed:
        adapter, host = item.adapter, item.site.host
        if not isinstance(adapter, LowRank) or not adapter.additive:
            continue
        flipped = turned(host, torch.empty(1, 2)).shape[0] == 2
        matrices.append(Matrix(item.site.name, host, adapter.factors, adapter.scale, flipped))
        covered |= {id(p) for p in adapter.parameters()}
    return matrices, covered


def held_out(config: RunConfig) -> list[str]:
    """Paths of data that the run is measured on."""
    sources = [s for part in (config.data.validation, config.data.test) if part is not None for s in _listed(part)]
    kept = config.evaluate.retention
    named = [str(SHIPPED) if name == GENERAL else name for name in (kept.sources if kept.on else ())]
    return [*(source.path for source in sources), *named]


def _listed(part: object) -> list[SourceConfig]:
    found = part if isinstance(part, (list, tuple)) else [part]
    return [source for source in found if isinstance(source, SourceConfig)]


def earlier_factors(path: str) -> Mapping[str, Tensor]:
    """A [R, D_in] of every low-rank update of a run or a folder of adapters, by module name.

    Raises:
        UserError: There are none.
    """
    folder = RunFolder(Path(path)).final if is_run(Path(path)) else Path(path)
    if not (folder / peft_format.CONFIG).is_file():
        raise UserError(
            "there are no LoRA adapters here",
            where=f"regularizers: o_lora: earlier: {path}",
            fix="name the folder of a finished LoRA run, or one with an adapter_config.json",
        )
    _, tensors = peft_format.read(folder)
    suffix = ".lora_A.weight"
    return {name.removesuffix(suffix): t for name, t in tensors.items() if name.endswith(suffix)}


def _head(loaded: Loaded) -> Head | None:
    return head_of(loaded.model) if loaded.classifier is None else None


def _collated(run: Run, table: TokenTable, rows: Sequence[int]) -> Batch:
    start = run.decoder_start
    pad = pad_id(run.loaded.tokenizer)
    return collate(table, rows, layout=run.layout, pad_id=pad, decoder_start_id=start)


def _computing(run: Run) -> AbstractContextManager[object]:
    return run.precision.context(run.device)
