"""Gradient checkpointing: activations are made again in the backward pass, all of them or the cheap ones only."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

KEPT = (
    "aten::mm",
    "aten::addmm",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "torch_attn::_varlen_attn",
)
"""Operators whose results selective checkpointing keeps: products with weights, and attention by a fused kernel.

They are nearly all of the arithmetic. Batched products stay out: inside attention they would keep its weights.
"""


def checkpoint_activations(model: Any, *, selective: bool = False) -> None:
    """Recompute each layer in the backward pass; the non-reentrant kind also reaches adapters on frozen inputs.

    Args:
        model: A model of `transformers`.
        selective: Keep the results of ``KEPT`` and recompute what lies between them: norms, activations, rotations,
            dropout. More memory than recomputing everything, and hardly any more time than recomputing nothing.
    """
    settings: dict[str, Any] = {"use_reentrant": False}
    if selective:
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    if hasattr(model, "activation_checkpointing_enable"):  # its newer name
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Kept or recomputed; by name, since not every build of PyTorch has every operator."""
    known = isinstance(operator, torch._ops.OpOverload) and operator.name().split(".")[0] in KEPT
    return CheckpointPolicy.MUST_SAVE if known else CheckpointPolicy.PREFER_RECOMPUTE
