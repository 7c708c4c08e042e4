"""LoftQ: a start of LoRA that makes up for what 4 bits lose of a matrix (Li et al., 2023, arXiv:2310.08659).

Shapes: W [D_out, D_in] the whole matrix, Q the same in 4 bits, A [R, D_in], B [D_out, R], s the scale of the update.

The paper alternates (algorithm 1): ``Q_t = q(W - s B_{t-1} A_{t-1})``, and ``s B_t A_t`` the best approximation of
``W - Q_t`` of rank R. Here it is the first of these steps, ``Q_1 = q(W)``, as in `peft`'s
``replace_lora_weights_loftq``: further ones would change the codes of the base, which all adapters on it share and
which its file gives again. What is left is ``||W - Q - s B A||^2 = sum of S_k^2 over k > R`` of the singular values of
``W - Q``, so each matrix begins nearer to the whole one than the base in 4 bits, and none further away.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from transformers import PreTrainedModel

from burnish.adapters.attach import Attached
from burnish.adapters.base import Placed
from burnish.adapters.lora_config import LoraConfig
from burnish.adapters.lora_init import LOFTQ, Frame, pissa
from burnish.adapters.lora_layers import LoraAdapter, matrix_of
from burnish.adapters.training import each
from burnish.models.quantize import is_quantized
from burnish.models.quantize import matrix_of as unpacked

Whole = Callable[[], PreTrainedModel]


def start_from_whole(attached: Attached, whole: Whole) -> int:
    """Let every LoRA that asks for it begin at what 4 bits lose of its matrix; the number of matrices.

    Matrices that the base keeps whole lose nothing, so their update starts at zero.

    Args:
        attached: The adapters, on a base of 4 bits.
        whole: Loads the same model with whole weights; called once, and only where it is needed.
    """
    load = cache(whole)
    count = 0
    for _, config, placed in each(attached):
        if isinstance(config, LoraConfig) and config.init == LOFTQ:
            hosts = [item for item in placed if is_quantized(item.site.host)]
            for item in hosts:
                _start(item, matrix_of(load().get_submodule(item.site.name)), config.init_options.iterations)
            count += len(hosts)
    return count


@torch.no_grad()
def _start(item: Placed, whole: Tensor, iterations: int | None) -> None:
    adapter = item.adapter
    assert isinstance(adapter, LoraAdapter)
    lost = whole - unpacked(item.site.host).to(whole.device)
    frame = Frame(lambda: lost, adapter.rank, (lost.shape[1], lost.shape[0]), adapter.scale, iterations)
    adapter.start_at(*pissa(frame, torch.Generator().manual_seed(0)))  # the principal part, of what was lost
