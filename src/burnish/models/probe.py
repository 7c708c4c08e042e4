"""What the probes of a loaded model share: a few ids, a quiet mode, and how exact its arithmetic is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}


def probe_ids(model: PreTrainedModel, count: int) -> Tensor:
    """Random token ids [1, count] from a generator of our own; never padding, which some models treat apart."""
    generator = torch.Generator().manual_seed(0)
    weight = model.get_input_embeddings().get_parameter("weight")
    size = weight.shape[0]
    ids = torch.randint(0, size, (1, count), generator=generator)
    pad = getattr(model.config, "pad_token_id", None)
    if pad is not None and size > 1:
        ids = torch.where(ids == pad, (ids + 1) % size, ids)
    return ids.to(weight.device)


def tolerance(reference: Tensor, computed: PreTrainedModel | torch.dtype) -> Tensor:
    """The largest difference that rounding explains: a share of the largest reference value.

    Args:
        reference: What is compared with.
        computed: The format of the computation, or the model in whose format it runs.
    """
    dtype = computed if isinstance(computed, torch.dtype) else computed.dtype
    return _TOLERANCE.get(dtype, 0.1) * reference.abs().max()


@contextmanager
def probing(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode of every module is put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
