"""The few types that every room shares. Shapes: B batch, T tokens, D width, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypedDict

if TYPE_CHECKING:
    from torch import Tensor, nn


class Batch(TypedDict, total=False):
    """One micro-batch, as the model and the terms see it.

    ``labels`` are aligned with the hidden states: ``labels[b, t]`` is the token that position ``t`` must predict, or
    -100. A causal collator has therefore shifted already, and never across the border of two packed rows.
    """

    input_ids: Tensor  # [B, T]; for an encoder-decoder, the encoder's
    position_ids: Tensor  # [B, T] counts from 0 in each packed row
    segment_ids: Tensor  # [B, T] which row of the micro-batch a token belongs to, -1 for padding
    segment_lengths: tuple[int, ...]  # packed layout only: lengths in order; their sum is T
    attention_mask: Tensor  # [B, T] 1 real, 0 padding; absent in the packed layout
    decoder_input_ids: Tensor  # [B, U] encoder-decoder only
    decoder_attention_mask: Tensor  # [B, U] encoder-decoder only
    token_type_ids: Tensor  # [B, T] 1 in the second text of a pair; absent where every token is of the first
    labels: Tensor  # [B, T] ([B, U] for an encoder-decoder), -100 ignored; [B] class ids; [B, W] numbers of a head
    weights: Tensor  # [B, T] or [B]
    tasks: tuple[str | None, ...]  # the task of each row, for parts of the model that belong to some tasks only
    adapters: tuple[str, ...]  # the adapter set of each row, empty for none; absent where all rows use the same
    row_ids: tuple[int, ...]  # which rows of the table are in here, for messages and logs
    idle: bool  # computed in step with other processes, and counted nowhere; absent where it counts
    source: str  # whose rows these are, where they are not the task's: only terms of this source read them


class Mean(NamedTuple):
    """A mean that can still be added to others: a sum and its count, both detached."""

    total: float
    count: float  # type: ignore[assignment]  # shadows tuple.count, which nobody asks a mean for

    @property
    def value(self) -> float:
        """The mean, or NaN for no units."""
        return self.total / self.count if self.count else float("nan")

    def __add__(self, other: object) -> Mean:
        if not isinstance(other, Mean):
            return NotImplemented
        return Mean(self.total + other.total, self.count + other.count)


@dataclass(frozen=True)
class Loss:
    """What a term returns: the SUM over its units (scalar, carries the gradient) and detached metrics."""

    total: Tensor
    metrics: dict[str, Mean] = field(default_factory=dict)


class Context(Protocol):
    """What a term may ask of the model; one memoised forward per micro-batch, shared by all terms."""

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states before the head, [B, T, D] ([B, U, D] of the decoder for an encoder-decoder)."""
        ...

    def head(self) -> nn.Module:
        """The output projection, so that a loss never materialises [B*T, V] logits."""
        ...

    def token_losses(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of every labelled position, [N], in row-major order of ``labels``."""
        ...

    def class_logits(self, batch: Batch) -> Tensor:
        """Logits of the classes of every row, [B, K], or of every token, [B, T, K], in fp32."""
        ...


@dataclass(frozen=True)
class Term:
    """One part of the objective. The loop computes ``weight * sum(total) / sum(count)`` over the whole update.

    Summed loss and unit count stay apart, so that accumulation, packing, padding and the number of devices never
    change the result.

    Attributes:
        name: What it is called in logs; no two terms of a run share one.
        weight: Its factor.
        count: How many units a micro-batch holds.
        loss: The sum over them.
        needs: What it needs besides the model, for the memory that is predicted.
        once: A penalty, which depends on the weights and not on the rows: it is asked for once in an update, whatever
            the number of micro-batches, and counts one.
        descend: Of a penalty that has one, a closed form of its gradient: adds it times a factor to the ``grad`` of
            what is trained, which saves a pass over all of it, and returns the value of ``loss``.
        source: Whose micro-batches it reads; those of the task without a name.
    """

    name: str
    weight: float
    count: Callable[[Batch], Tensor]
    loss: Callable[[Batch, Context], Loss]
    needs: tuple[str, ...] = ()
    once: bool = False
    descend: Callable[[float], Tensor] | None = None
    source: str = ""

    def reads(self, batch: Batch) -> bool:
        """Whether this micro-batch is one of its own."""
        return self.source == batch.get("source", "")
