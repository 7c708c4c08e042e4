"""Gradient checkpointing: activations are made again in the backward pass, all of them or the cheap ones only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

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

Results = dict[Any, list[Any]]


def checkpoint_activations(model: Any, *, selective: bool = False) -> None:
    """Recompute each layer in the backward pass; the non-reentrant kind also reaches adapters on frozen inputs.

    Args:
        model: A model of `transformers`.
        selective: Keep the results of ``KEPT`` and recompute what lies between them: norms, activations, rotations,
            dropout. More memory than recomputing everything, and hardly any more time than recomputing nothing.
    """
    settings: dict[str, Any] = {"use_reentrant": False}
    if selective:
        settings["context_fn"] = selective_contexts
    if hasattr(model, "activation_checkpointing_enable"):  # its newer name
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def selective_contexts() -> tuple[TorchDispatchMode, TorchDispatchMode]:
    """The contexts of one layer's forward pass and of its recomputation, for `torch.utils.checkpoint`.

    PyTorch's own (`create_selective_checkpoint_contexts`) keep the very tensor that an operator returned, and refuse
    one that was changed since. LoRA adds its update to the product in place, so what is kept here is a copy.
    """
    results: Results = {}
    return _Record(results), _Replay(results)


class _Record(TorchDispatchMode):
    """Keeps a copy of every result of ``KEPT``, in the order in which they are made."""

    def __init__(self, results: Results) -> None:
        super().__init__()
        self.results = results

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        if _kept(operator):
            self.results.setdefault(operator, []).append(tree_map_only(Tensor, torch.clone, result))
        return result


class _Replay(TorchDispatchMode):
    """Hands them out again in that order, each once; what is asked for beyond them is computed."""

    def __init__(self, results: Results) -> None:
        super().__init__()
        self.results = results

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waiting = self.results.get(operator)
        return waiting.pop(0) if waiting else operator(*args, **(kwargs or {}))


def _kept(operator: Any) -> bool:
    """By name, since not every build of PyTorch has every operator."""
    return isinstance(operator, torch._ops.OpOverload) and operator.name().split(".")[0] in KEPT
