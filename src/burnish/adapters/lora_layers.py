"""Low-rank updates beside a frozen matrix: the forward pass that they share, LoRA and DoRA.

Shapes: D_in and D_out the sides of the host's matrix, R rank, V vocabulary, N positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from burnish.adapters.base import Adapter, NotMergeable, slot_of
from burnish.adapters.chains import split
from burnish.adapters.lora_init import RESIDUAL, STARTS, Frame
from burnish.models.maps import Chain, hooked, map_of, plain
from burnish.ops.dropout import dropout
from burnish.ops.projections import Projection

Spans = tuple[tuple[int, int], ...]
"""Rows of a fused matrix that belong to its parts, from and up to."""


def sides(host: nn.Module) -> tuple[int, int] | None:
    """(D_in, D_out) of a host's matrix, also where k-bit weights are stored in another shape; None for no matrix."""
    if isinstance(host, nn.Linear):
        return host.in_features, host.out_features
    if isinstance(host, Conv1D):
        return host.nx, host.nf
    if isinstance(host, nn.Embedding):
        return host.num_embeddings, host.embedding_dim
    return None


def is_plain_matrix(host: nn.Module) -> bool:
    """Whether the host's weight is a floating-point matrix, and not packed into few bits."""
    weight = host.weight
    return isinstance(weight, Tensor) and weight.is_floating_point() and weight.dim() == 2


def turned(host: nn.Module, matrix: Tensor) -> Tensor:
    """From the layout of the host's weight to [D_out, D_in], or back: Conv1D and embeddings keep the transpose."""
    return matrix.t() if isinstance(host, (Conv1D, nn.Embedding)) else matrix


def matrix_of(host: nn.Module) -> Tensor:
    """The host's matrix W [D_out, D_in], in fp32 at least."""
    weight: Tensor = host.weight  # type: ignore[assignment]
    return turned(host, wide(weight.detach()))


def stored(host: nn.Module) -> Tensor:
    """The host's matrix W [D_out, D_in] in the format of its weight."""
    return turned(host, host.weight.detach())  # type: ignore[operator, arg-type]


def wide(tensor: Tensor) -> Tensor:
    """The tensor in fp32, or in fp64 where it is that."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class LowRank(Adapter):
    """``h = W x + s B A dropout(x)`` at a linear or Conv1D host; ``h = W[:, i] + s B A[:, i]`` at an embedding.

    Trained values are kept in fp32 and cast to the format of the activations for the products: an update of 1e-5
    relative to its weight is below bf16's resolution of 2^-8.

    Attributes:
        scale: s.
        dropout: Dropout rate on the input of the update.
    """

    additive: ClassVar[bool] = True
    """Whether the formula above is all that the adapter computes, so that a fused operation may compute it."""

    def __init__(self, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale, self.dropout = scale, dropout

    def factors(self) -> tuple[Tensor, Tensor]:
        """A [R, D_in] and B [D_out, R] of the update, with gradients to what they are made of."""
        raise NotImplementedError

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Add the update to the host's output."""
        A, B = self.factors()
        inner, scale = self._inner(host, A, args[0] if args else next(iter(kwargs.values())))
        inner = inner.flatten(0, -2).to(output.dtype)
        # one product that adds to the output: scaling and adding apart would each pass over [N, D_out] once more
        flat = output.reshape(-1, output.shape[-1])
        return torch.addmm(flat, inner, B.to(output.dtype).t(), alpha=scale).view_as(output)

    def _inner(self, host: nn.Module, A: Tensor, x: Tensor) -> tuple[Tensor, float]:
        """``A dropout(x)``, and the scale of what is made of it."""
        if isinstance(host, nn.Embedding):
            # Gemma's tables scale what they return
            return F.embedding(x, A.t()), self.scale * float(getattr(host, "embed_scale", 1.0))
        x = dropout(x, self.dropout if self.training else 0.0)
        return F.linear(x, A.to(x.dtype)), self.scale

    def tuned(self, matrix: Tensor) -> Tensor:
        """What becomes of W [D_out, D_in], fp32: ``W + s B A``."""
        A, B = self.factors()
        return matrix + (wide(B) @ wide(A)) * self.scale

    @torch.no_grad()
    def delta(self, host: nn.Module) -> Tensor:
        """The update in the layout of the host's weight, fp32."""
        matrix = matrix_of(host)
        return turned(host, self.tuned(matrix) - matrix)

    def check_mergeable(self, host: nn.Module) -> None:
        """Refuse weights that are not plain floating-point matrices."""
        if not is_plain_matrix(host):
            raise NotMergeable(
                f"a {type(host).__name__} with {getattr(host.weight, 'dtype', 'no')} weights cannot take the update",
                fix="merge into the base in float32 or bfloat16",
            )

    @torch.no_grad()
    def merge_(self, host: nn.Module) -> None:
        """Put the tuned matrix in the place of W, computed in fp32 and rounded once to the format of W."""
        self.check_mergeable(host)
        weight: Tensor = host.weight  # type: ignore[assignment]
        weight.copy_(turned(host, self.tuned(matrix_of(host))).to(weight.dtype))


class LoraAdapter(LowRank):
    """LoRA (Hu et al., 2022, equation 3), with any start of `lora_init`.

    Where the start has a product that is not zero, it is taken off: ``s (B A - B0 A0)`` with frozen A0 and B0, computed
    as ``s [B - B0, B0] [A; A - A0]``, which is exactly zero at the start and never the difference of large numbers.

    Args:
        host: The module that carries the matrix.
        rank: R.
        scale: s.
        dropout: Dropout rate.
        generator: Draws the initial values; at an embedding A is zero and B standard normal, as in `peft`. Zeros
            without one.
        init: How the factors start.
        spans: Rows of the parts of a fused matrix that get an update, each with factors of its own: A is then [P R,
            D_in] for P parts, and B [rows of all parts, R]. Empty for one update of all rows.
        iterations: Power iterations of a truncated decomposition; None for an exact one.
    """

    def __init__(
        self,
        host: nn.Module,
        rank: int,
        scale: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        *,
        init: str = "kaiming",
        spans: Spans = (),
        iterations: int | None = None,
    ) -> None:
        super().__init__(scale, dropout)
        shape = sides(host)
        if shape is None:
            raise TypeError(f"a {type(host).__name__} has no matrix")
        self.spans = spans
        inner, outer = shape
        rows = sum(stop - start for start, stop in spans) if spans else outer
        A, B = torch.zeros(max(1, len(spans)) * rank, inner), torch.zeros(rows, rank)
        if generator is not None and isinstance(host, nn.Embedding):
            B.normal_(generator=generator)
        elif generator is not None and spans:
            frame = Frame(lambda: matrix_of(host), rank, (inner, rows), scale)
            A = torch.cat([STARTS[init](frame, generator)[0] for _ in spans])
        elif generator is not None:
            frame = Frame(lambda: matrix_of(host), rank, (inner, outer), scale, iterations)
            A, B = STARTS[init](frame, generator)
        device = next(host.parameters()).device
        self.A, self.B = nn.Parameter(A.to(device)), nn.Parameter(B.to(device))
        self.A0: Tensor | None
        self.B0: Tensor | None
        residual = init in RESIDUAL
        self.register_buffer("A0", self.A.detach().clone() if residual else None)
        self.register_buffer("B0", self.B.detach().clone() if residual else None)

    @property
    def rank(self) -> int:
        """R."""
        return self.B.shape[1]

    def factors(self) -> tuple[Tensor, Tensor]:
        """A and B; of rank 2 R with a start that is taken off."""
        if self.A0 is not None and self.B0 is not None:
            return torch.cat([self.A, self.A - self.A0]), torch.cat([self.B - self.B0, self.B0], 1)
        return self.A, self.B

    @torch.no_grad()
    def start_at(self, A: Tensor, B: Tensor) -> None:
        """Take other initial values, of another rank too."""
        self.A, self.B = nn.Parameter(A.to(self.A).contiguous()), nn.Parameter(B.to(self.B).contiguous())
        if self.A0 is not None:
            self.A0, self.B0 = self.A.detach().clone(), self.B.detach().clone()


class FusedLoraAdapter(LoraAdapter):
    """LoRA on some parts of a fused matrix, such as q and v of GPT-2's `c_attn`: a matrix each, as if they were apart.

    As in the authors' library, whose ``MergedLinear`` has factors of its own for each part.
    """

    def __init__(self, host: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(host, *args, **kwargs)
        shape = sides(host)
        assert shape is not None
        self.rows = shape[1]

    def factors(self) -> tuple[Tensor, Tensor]:
        """A [P R, D_in], and B [D_out, P R] with a block for each part and zeros elsewhere."""
        B = self.B.new_zeros(self.rows, self.A.shape[0])
        done = 0
        for number, (start, stop) in enumerate(self.spans):
            columns = slice(number * self.rank, (number + 1) * self.rank)
            B[start:stop, columns] = self.B[done : done + stop - start]
            done += stop - start
        return self.A, B


class DoraAdapter(LoraAdapter):
    """DoRA: the tuned matrix keeps a length of its own for each row (Liu et al., 2024, arXiv:2402.09353, equation 5).

        W' = m * (W + s B A) / ||W + s B A||,

    with the norm over D_in, one for each of the D_out outputs, and m [D_out] trained from ``||W||``. As in section 4.3
    the norm gets no gradient. Deviation: dropout acts on the update's input alone, here as in LoRA; in the authors'
    code the part of W that is rescaled is computed from dropped inputs too.
    """

    additive = False

    def __init__(self, host: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(host, *args, **kwargs)
        self.magnitude = nn.Parameter(self.norms(matrix_of(host)))

    @torch.no_grad()
    def norms(self, matrix: Tensor) -> Tensor:
        """``||W + s B A||`` of each output [D_out], fp32, without the sum as a matrix.

        ``||w + s b A||^2 = ||w||^2 + 2 s b (A w) + s^2 b (A A^T) b``, exactly ``||w||`` while the update is zero. W
        may come as it is stored: its squares are summed in fp32, and ``A w`` is a product in its format, as ``A x`` is.
        """
        with torch.autocast(matrix.device.type, enabled=False):
            A, B = (wide(factor) for factor in self.factors())
            square = torch.linalg.vector_norm(matrix, dim=1, dtype=wide(matrix[:0]).dtype).square()
            cross = (B * (matrix @ A.to(matrix.dtype).t())).sum(1)
            own = (B * (B @ (A @ A.t()))).sum(1)
            return (square + 2 * self.scale * cross + self.scale**2 * own).clamp_min(1e-24).sqrt()

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """``b + g (W x + s B A x)`` with ``g = m / ||W + s B A||``."""
        A, B = self.factors()
        inner, scale = self._inner(host, A, args[0] if args else next(iter(kwargs.values())))
        gain = self.magnitude / self.norms(stored(host))
        bias = getattr(host, "bias", None)
        mapped = output - bias if bias is not None else output
        update = F.linear(inner.to(output.dtype), (B * (gain * scale)[:, None]).to(output.dtype))
        return output + (gain - 1).to(output.dtype) * mapped + update

    def rescaled(self, host: nn.Module, y: Tensor) -> Tensor:
        """``g y + b`` of ``y = (W + s B A) x``, without b: the same for fused operations. ``y + (g - 1) y`` keeps what
        bf16 would round away of a g near one."""
        gain = self.magnitude / self.norms(stored(host)) - 1
        y = torch.addcmul(y, y, gain.to(y.dtype))
        bias = getattr(host, "bias", None)
        return y if bias is None else y + bias.to(y.dtype)

    def tuned(self, matrix: Tensor) -> Tensor:
        """``W' = m (W + s B A) / ||W + s B A||``."""
        return super().tuned(matrix) * (wide(self.magnitude) / self.norms(matrix))[:, None]


class FusedDoraAdapter(DoraAdapter, FusedLoraAdapter):
    """DoRA on some parts of a fused matrix; every row has a length, the rows of other parts too."""


KINDS: dict[tuple[bool, bool], type[LoraAdapter]] = {
    (False, False): LoraAdapter,
    (False, True): FusedLoraAdapter,
    (True, False): DoraAdapter,
    (True, True): FusedDoraAdapter,
}
"""The adapter, by whether it is DoRA and whether the matrix is fused."""


def projection_of(host: nn.Module) -> Projection | None:
    """What a linear layer computes with the adapters in use; None where that is more than its map, low-rank updates,
    and adapters that read nothing but the input ahead of it or the output behind it."""
    slot = slot_of(host)
    if slot is None:
        return plain(host)
    first, active, then = split(host, slot.active())
    base = map_of(host)
    if base is None or hooked(host) != len(slot.handles) or not all(isinstance(a, LowRank) for a in active):
        return None
    base = replace(base, first=first, then=then)
    if not active:
        return base
    adapter: LowRank = active[0]  # type: ignore[assignment]
    if len(active) > 1 or not (adapter.additive or isinstance(adapter, DoraAdapter)):
        return replace(base, beside=partial(_beside, host, active))
    if isinstance(adapter, DoraAdapter):
        base = replace(base, bias=None, then=_chained(partial(adapter.rescaled, host), then))
    if adapter.dropout and adapter.training:
        return replace(base, beside=partial(_added, host, adapter))
    A, B = adapter.factors()
    # AdaLoRA may leave a matrix nothing
    return replace(base, A=A, B=B, scale=adapter.scale) if len(A) else base


def _added(host: nn.Module, adapter: LowRank, x: Tensor, output: Tensor) -> Tensor:
    return LowRank.after(adapter, host, (x,), {}, output)  # the update alone, without DoRA's lengths


def _beside(host: nn.Module, adapters: Sequence[Adapter], x: Tensor, output: Tensor) -> Tensor:
    for adapter in adapters:
        output = adapter.after(host, (x,), {}, output)
    return output


def _chained(one: Chain, other: Chain | None) -> Chain:
    return one if other is None else lambda y: other(one(y))
