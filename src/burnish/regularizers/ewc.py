"""EWC: what mattered before moves least (Kirkpatrick et al., 2017, arXiv:1612.00796).

Shapes: D_in and D_out the sides of a matrix, R rank, N positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from burnish.core.errors import UserError
from burnish.core.types import Batch, Context, Loss, Mean, Term
from burnish.models.classifier import pool
from burnish.models.forward import hidden_states
from burnish.models.modes import in_evaluation
from burnish.ops.cross_entropy import chunk_rows
from burnish.ops.distance import (
    LowRankUpdate,
    WeighedUpdate,
    descend_distance_,
    descend_matrices_,
    low_rank_square,
    squared_distance,
    weighed_low_rank_square,
)
from burnish.regularizers.anchors import Anchors
from burnish.regularizers.base import (
    Made,
    Matrix,
    RegularizerConfig,
    Subject,
    held,
    megabytes,
    note,
    one,
    regularizer,
)
from burnish.regularizers.general import General
from burnish.regularizers.places import places

_STREAM = 0xE3C  # keeps this use of the run's seed apart from others


class EWCConfig(RegularizerConfig):
    """Weigh each weight's squared distance from its start by how much the original model's answers depend on it.

    That is the diagonal of the Fisher information (Kirkpatrick et al., 2017), from general texts, made once before
    training. For LoRA, AdaLoRA and VeRA it is that of the tuned matrix; for all else that is trained that of its
    parameters. The new head of a task is left free.
    """

    kind: Literal["ewc"] = "ewc"
    """The name of the regularizer."""
    fisher: Literal["diagonal", "factored"] = "diagonal"
    """`diagonal`: a number for every weight of the matrices that are tuned; `factored`: one for each row and column of
    them, whose products stand for it: hardly any memory or time."""
    labels: Literal["sampled", "data"] = "sampled"
    """Whose words the gradients are of: drawn from the model's own predictions, which gives the Fisher information; or
    the texts' own, which gives the empirical one."""
    data: str | None = None
    """General texts: a text file with an empty line between texts, or JSONL rows with a field `text`. Without it those
    that come with Burnish. A file that the run is measured on is refused."""
    samples: int = Field(64, ge=1)
    """Texts that it is estimated from, one backward pass each; texts are taken again where there are fewer."""
    max_length: int = Field(128, ge=2)
    """Tokens after which a text is cut."""


@regularizer("ewc", EWCConfig)
def ewc(config: EWCConfig, subject: Subject) -> Made:
    """One penalty (equation 3),

        L = weight / 2 * sum_i F_i (w_i - w_0i)^2,     F_i = sum_x (d log p(y | x) / d w_i)^2 / M,

    over M tokens of general text x, with y drawn from the model (``labels: sampled``). Then ``weight = 1`` makes the
    penalty an estimate of the KL divergence from the original model per token, as far as a diagonal can know it. All
    words of a text are drawn at once and share a backward pass: given the words before them they are independent with
    mean gradient zero, so what their products add vanishes on average.

    With a new head, which says nothing yet, y is what a normal distribution of variance 1 around the vector that the
    head reads would draw: then F is the diagonal of ``J^T J``, and the penalty estimates half the squared change of it.

    ``factored`` is ``F_ij = r_i c_j / mean(r)`` with the means r and c over rows and columns, as in Adafactor (Shazeer
    and Stern, 2018, section 3): rank-one, and of all such the one with least generalised KL divergence.

    An embedding table that is the head too has one Fisher information for both of its uses.

    Memory: as many numbers in fp32 as the tuned matrices have (``factored``: rows and columns only), and for other
    trained tensors twice their own.

    Raises:
        UserError: A matrix is packed into few bits, so that it has no gradient.
    """
    refuse_packed(subject.matrices)
    anchors = Anchors.of(subject.tensors)
    general = General.read(config.data, subject, source="ewc", rows=1, max_length=config.max_length)
    factored = config.fisher == "factored"
    fisher = estimate(config, subject, general, factored)
    matrices = tuple(subject.matrices)

    def loss(batch: Batch, context: Context) -> Loss:
        with torch.autocast(subject.device.type, enabled=False):
            parts = [_of_matrices(matrices, fisher)] if matrices else []
            if anchors.parameters:
                parts.append(squared_distance(anchors.parameters, anchors.values, fisher.tensors))
            total = torch.stack(parts).sum() / 2
        return Loss(total, {"penalty": Mean(float(total.detach()), 1.0)})

    def descend(factor: float) -> Tensor:
        with torch.autocast(subject.device.type, enabled=False):
            parts = []
            if matrices and fisher.whole:
                total = _of_matrices(matrices, fisher)
                if total.requires_grad:
                    (total * (factor / 2)).backward()
                parts.append(total.detach())
            elif matrices:
                parts += descend_matrices_(_factored(matrices, fisher), factor / 2)
            if anchors.parameters:
                parts.append(descend_distance_(anchors.parameters, anchors.values, factor / 2, fisher.tensors))
            return torch.stack(parts).sum() / 2

    what = (
        f"`ewc` at weight {config.weight:g} holds {held(subject)} near where they begin, by their Fisher "
        f"information on {config.samples} general texts; that takes {megabytes(fisher.numbers)}"
        + (f", copies of the tensors {megabytes(anchors.bytes, 1)}" if anchors.names else "")
    )
    term = Term("ewc", config.weight, one, loss, once=True, descend=descend)
    return Made((term,), notes=(note("ewc", what),))


def refuse_packed(matrices: Sequence[Matrix]) -> None:
    """Refuse matrices that cannot have a gradient.

    Raises:
        UserError: There is one.
    """
    packed = [m for m in matrices if not m.host.get_parameter("weight").is_floating_point()]
    if packed:
        raise UserError(
            f"`ewc` needs gradients of the base's weights, and those of `{packed[0].name}` are packed into few bits",
            where="regularizers: ewc",
            fix="use `l2_sp` or `distill`, or load the base in bfloat16",
        )


@dataclass(frozen=True)
class Fisher:
    """What was estimated.

    Attributes:
        whole: [D_out, D_in] of each matrix; empty where it is factored.
        sides: r [D_out] and c [D_in] of each matrix, with ``F_ij = r_i c_j``; empty where it is whole.
        tensors: Of each trained tensor, in its shape.
    """

    whole: tuple[Tensor, ...]
    sides: tuple[tuple[Tensor, Tensor], ...]
    tensors: tuple[Tensor, ...]

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return sum(t.numel() for t in (*self.whole, *(s for pair in self.sides for s in pair), *self.tensors))


def _of_matrices(matrices: Sequence[Matrix], fisher: Fisher) -> Tensor:
    factors = [(m.factors(), m.scale) for m in matrices]
    if fisher.whole:
        return weighed_low_rank_square(
            [WeighedUpdate(*f, scale, w) for (f, scale), w in zip(factors, fisher.whole, strict=True)]
        )
    return low_rank_square(_factored(matrices, fisher))


def _factored(matrices: Sequence[Matrix], fisher: Fisher) -> list[LowRankUpdate]:
    return [LowRankUpdate(*m.factors(), m.scale, *s) for m, s in zip(matrices, fisher.sides, strict=True)]


def estimate(config: EWCConfig, subject: Subject, general: General, factored: bool) -> Fisher:
    """The Fisher information of everything that is held, from some texts; the same every time."""
    hosts = [m.host.get_parameter("weight") for m in subject.matrices]
    wanted: list[nn.Parameter] = [*hosts, *(p for _, p in subject.tensors)]
    sums = [_Sums(m.turned(h).shape, factored, h.device) for m, h in zip(subject.matrices, hosts, strict=True)]
    others = [torch.zeros_like(p, dtype=torch.float32) for _, p in subject.tensors]
    generator = torch.Generator().manual_seed(subject.seed * 1_000_003 + _STREAM)
    tokens = 0
    with in_evaluation(subject.model), wanting(subject.model, wanted):
        for batch in general.singly(config.samples):
            with subject.computing():
                value, count = SCORES[subject.classifier is not None](config, subject, batch, generator)
            gradients = torch.autograd.grad(value, wanted, allow_unused=True)
            tokens += count
            for matrix, total, gradient in zip(subject.matrices, sums, gradients, strict=False):
                if gradient is not None:
                    total.add(matrix.turned(gradient))
            for other, gradient in zip(others, gradients[len(hosts) :], strict=True):
                if gradient is not None:
                    other.addcmul_(gradient.float(), gradient.float())
    whole = () if factored else tuple(s.whole.div_(tokens) for s in sums)
    sides = tuple(s.factors(tokens) for s in sums) if factored else ()
    return Fisher(whole, sides, tuple(other.div_(tokens) for other in others))


class _Sums:
    """Sums of squared gradients [D_out, D_in] of one matrix, or of their rows and columns."""

    def __init__(self, shape: torch.Size, factored: bool, device: torch.device) -> None:
        self.shape, self.factored = shape, factored
        self.whole = torch.zeros(*((0, 0) if factored else shape), device=device)
        self.rows, self.columns = torch.zeros(shape[0], device=device), torch.zeros(shape[1], device=device)

    def add(self, gradient: Tensor) -> None:
        square = gradient.float().square()
        if self.factored:
            self.rows += square.mean(1)
            self.columns += square.mean(0)
        else:
            self.whole += square

    def factors(self, count: int) -> tuple[Tensor, Tensor]:
        """r and c, with the means of rows and columns of ``r_i c_j`` being those that were summed."""
        middle = float(self.rows.mean())
        return self.rows / count, self.columns / middle if middle else self.columns


@contextmanager
def wanting(model: nn.Module, wanted: Sequence[nn.Parameter]) -> Iterator[None]:
    """These parameters alone ask for gradients, as long as the context lasts."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    own = {id(p) for p in wanted}
    for parameter, _ in flags:
        parameter.requires_grad_(id(parameter) in own)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _of_words(config: EWCConfig, subject: Subject, batch: Batch, generator: torch.Generator) -> tuple[Tensor, int]:
    """Log-likelihood of words at every position, drawn from the model or the text's own."""
    assert subject.head is not None
    chosen = places(batch, "all" if config.labels == "sampled" else "trained")
    hidden = hidden_states(subject.model, batch)[chosen]
    labels = batch["labels"][chosen]
    if config.labels == "sampled":
        labels = drawn(subject.head, hidden.detach(), generator)
    return -subject.head.token_losses(hidden, labels).sum(), len(labels)


@torch.no_grad()
def drawn(head: Any, hidden_ND: Tensor, generator: torch.Generator) -> Tensor:
    """A token [N] for every position, drawn from the model's own distribution; on the host, alike on any device."""
    found = []
    for hidden in hidden_ND.split(chunk_rows(head.weight)):
        cumulated = torch.softmax(head(hidden).float(), dim=-1).double().cumsum(-1).cpu()
        thresholds = torch.rand(len(hidden), 1, generator=generator, dtype=torch.float64) * cumulated[:, -1:]
        found.append(torch.searchsorted(cumulated, thresholds)[:, 0].clamp(max=cumulated.shape[1] - 1))
    return torch.cat(found).to(hidden_ND.device)


def _of_vectors(config: EWCConfig, subject: Subject, batch: Batch, generator: torch.Generator) -> tuple[Tensor, int]:
    """Noise times the vectors that the head reads: the gradient of a normal log-likelihood at a drawn place."""
    assert subject.classifier is not None
    vectors = pool(subject.model, hidden_states(subject.model, batch), batch, subject.classifier.pooling).float()
    noise = torch.randn(vectors.shape, generator=generator).to(vectors)
    return (vectors * noise).sum(), vectors[..., 0].numel()


Score = Callable[[EWCConfig, Subject, Batch, torch.Generator], tuple[Tensor, int]]
SCORES: dict[bool, Score] = {False: _of_words, True: _of_vectors}
"""What is differentiated, and how many answers it speaks of; by whether there is a new head."""
