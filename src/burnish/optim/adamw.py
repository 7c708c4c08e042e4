"""AdamW (Loshchilov and Hutter, 2019) in the forms in which it can keep its moments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from burnish.core.errors import UserError
from burnish.models.bitsandbytes_library import load_bitsandbytes
from burnish.optim.config import OptimizerName

Groups = list[dict[str, Any]]


def full(groups: Groups, **settings: Any) -> torch.optim.Optimizer:
    """Two fp32 numbers for each trained weight."""
    # The fused kernel makes one pass over a CPU's memory; on accelerators the foreach default keeps `step` on the host.
    fused = True if _devices(groups) == {"cpu"} else None
    return torch.optim.AdamW(groups, fused=fused, **settings)


def eight_bit(name: str, groups: Groups, **settings: Any) -> torch.optim.Optimizer:
    """Two numbers of 8 bits for each trained weight, scaled block by block (Dettmers et al., 2022).

    Tensors of less than 4,096 numbers keep fp32 moments, as the library does it.

    Args:
        name: Class in ``bitsandbytes.optim``.
        groups: Parameter groups.
        **settings: Learning rate, betas, eps.

    Raises:
        UserError: `bitsandbytes` is not installed or does not work here, or there is no GPU to page from.
    """
    bitsandbytes = load_bitsandbytes(
        "an optimiser with 8-bit moments needs", where="memory.optimizer", otherwise="use `memory.optimizer=adamw`"
    )
    if name.startswith("Paged") and "cuda" not in _devices(groups):
        raise UserError(
            "a paged optimiser moves its moments between a GPU and the host, and there is no GPU here",
            where="memory.optimizer",
            fix="use `memory.optimizer=adamw_8bit`",
        )
    made: torch.optim.Optimizer = getattr(bitsandbytes.optim, name)(groups, **settings)
    return made


def _devices(groups: Groups) -> set[str]:
    return {parameter.device.type for group in groups for parameter in group["params"]}


OPTIMIZERS: dict[OptimizerName, Callable[..., torch.optim.Optimizer]] = {
    "adamw": full,
    "adamw_8bit": partial(eight_bit, "AdamW8bit"),
    "paged_adamw_8bit": partial(eight_bit, "PagedAdamW8bit"),
}
"""Makes an optimiser from parameter groups, learning rate, betas and eps."""
