"""What a regularizer may look at, what it gives to a run, and the table of regularizers.

A regularizer is one file: a configuration, and a function decorated with ``@regularizer(...)`` that makes terms from it
and from a ``Subject``. It knows no adapter: low-rank updates come to it as factors, all else as tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from burnish.core.config import Config
from burnish.core.findings import Finding
from burnish.core.registry import Registry
from burnish.core.types import Batch, Term
from burnish.data.table import TokenTable
from burnish.models.classifier import Classifier
from burnish.models.head import Head


class RegularizerConfig(Config):
    """Base of every regularizer's configuration; ``kind`` says which one it is."""

    kind: str
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Factor on the term in the loss. The log's `loss.NAME` are the weighed terms, which sum to `loss`."""

    def changed(self, *names: str) -> list[str]:
        """Those of these settings that are not at their default: a resolved recipe names all of them."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]


@dataclass(frozen=True)
class Matrix:
    """A frozen matrix W [D_out, D_in] with a trained low-rank update ``s B A`` beside it, zero at the start.

    Attributes:
        name: Name of its module.
        host: The module.
        factors: Gives A [R, D_in] and B [D_out, R], with gradients to what is trained.
        scale: s.
        transposed: Whether the module keeps its weight as [D_in, D_out].
    """

    name: str
    host: nn.Module
    factors: Callable[[], tuple[Tensor, Tensor]]
    scale: float
    transposed: bool = False

    @property
    def sides(self) -> tuple[int, int]:
        """(D_out, D_in)."""
        A, B = self.factors()
        return B.shape[0], A.shape[1]

    def turned(self, weight: Tensor) -> Tensor:
        """From the layout of the module's weight to [D_out, D_in]."""
        return weight.t() if self.transposed else weight


@dataclass(frozen=True)
class Subject:
    """A run as regularizers see it, before its first update.

    Attributes:
        model: The model with its adapters attached.
        tokenizer: Its tokenizer.
        matrices: Low-rank updates.
        tensors: Names and parameters of all else that is trained and had a value before: weights of the base, and
            parameters of adapters that are no low-rank update. The new head of a task is not among them.
        keeps_base: Whether the base stays as it was, so that switching the adapters off brings it back.
        head: The language-model head, or None.
        classifier: The new head of a task, or None.
        table: The training rows.
        collate: From rows of a table to a micro-batch.
        cut: From numbers and lengths of rows to micro-batches.
        computing: Context of number formats for a forward pass.
        device: Where batches go.
        seed: The run's seed.
        origin: What is known of the base: its path and the hash of its weights.
        held_out: Paths of data that the run is measured on.
        earlier: From a run, or a folder of adapters, to A [R, D_in] of its low-rank updates by module name.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    matrices: Sequence[Matrix]
    tensors: Sequence[tuple[str, nn.Parameter]]
    keeps_base: bool
    head: Head | None
    classifier: Classifier | None
    table: TokenTable
    collate: Callable[[TokenTable, Sequence[int]], Batch]
    cut: Callable[[Sequence[int], Any], list[list[int]]]
    computing: Callable[[], AbstractContextManager[object]]
    device: torch.device
    seed: int
    origin: Any
    held_out: Sequence[str] = ()
    earlier: Callable[[str], Mapping[str, Tensor]] = lambda path: {}

    @property
    def is_seq2seq(self) -> bool:
        """Whether it is an encoder-decoder."""
        return bool(getattr(self.model.config, "is_encoder_decoder", False))

    def moved(self, batch: Batch) -> Batch:
        """The batch with its tensors where the model is."""
        moved = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        return moved  # type: ignore[return-value]  # same keys, same kinds

    def micro_batches(self, table: TokenTable, rows: Sequence[int]) -> Iterator[Batch]:
        """These rows of a table, cut as the run cuts an update."""
        for numbers in self.cut(list(rows), table.lengths):
            yield self.collate(table, numbers)


@dataclass(frozen=True)
class Made:
    """What a regularizer gives to a run.

    Attributes:
        terms: Its terms.
        further: Micro-batches of an update beside those of the task, from its number; each names its ``source``.
        notes: What a user should know: what is held, and what it takes.
    """

    terms: tuple[Term, ...]
    further: Callable[[int], list[Batch]] | None = None
    notes: tuple[Finding, ...] = ()


C = TypeVar("C", bound=RegularizerConfig)
Build = Callable[[Any, Subject], Made]


@dataclass(frozen=True)
class Regularizer:
    """One entry of the table.

    Attributes:
        name: The value of ``kind``.
        config: Its configuration class.
        build: From configuration and subject to terms. It must leave the model as it was.
        zero_at_start: Whether its terms are zero before the first update, dropout aside.
    """

    name: str
    config: type[RegularizerConfig]
    build: Build
    zero_at_start: bool = True


REGULARIZERS: Registry[Regularizer] = Registry("regularizer")


def regularizer(
    name: str, config: type[C], **options: Any
) -> Callable[[Callable[[C, Subject], Made]], Callable[[C, Subject], Made]]:
    """Decorator that files a build function in the table; ``options`` are further fields of ``Regularizer``."""

    def add(build: Callable[[C, Subject], Made]) -> Callable[[C, Subject], Made]:
        REGULARIZERS.register(name)(Regularizer(name, config, build, **options))
        return build

    return add


def note(kind: str, what: str, severity: Any = "note") -> Finding:
    """A finding about one regularizer."""
    return Finding(severity, f"regularizers.{kind.replace('_', '-')}", what, where="regularizers")


def held(subject: Subject) -> str:
    """What is held near its start, for a message."""
    counts = {"low-rank updates": len(subject.matrices), "tensors": len(subject.tensors)}
    return " and ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing"


def one(batch: Batch) -> Tensor:
    """A penalty counts one."""
    return torch.ones(())


def megabytes(numbers: float, size: int = 4) -> str:
    """Memory of so many numbers, for a message."""
    return f"{numbers * size / 1e6:,.1f} MB"
