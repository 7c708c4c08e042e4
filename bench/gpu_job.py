"""A model of a known shape with random weights, and Burnish's own loop over rows of random tokens."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from burnish.adapters.attach import Attached, attach
from burnish.adapters.full import FullConfig
from burnish.adapters.lora import LoraConfig, projection_of
from burnish.core.events import Event, Stepped
from burnish.core.types import Batch
from burnish.data.batches import BatchConfig
from burnish.models.forward import supports_packing
from burnish.models.fuse import fuse
from burnish.models.head import head_of
from burnish.models.recompute import checkpoint_activations
from burnish.objectives.context import ModelContext
from burnish.objectives.sft import supervised_terms
from burnish.optim.config import OptimConfig
from burnish.optim.groups import build_optimizer
from burnish.train.job import Job
from burnish.train.loop import train
from burnish.train.precision import choose_precision
from burnish.train.stages import Stages
from burnish.train.state import TrainState
from burnish.train.updates import Updates


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder."""

    kind: str
    width: int
    layers: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int
    tied: bool

    @property
    def head_width(self) -> int:
        """Width of an attention head."""
        return self.width // self.heads


SHAPES = {
    "tiny": Shape("llama", 64, 2, 4, 2, 128, 256, False),
    "0.5B": Shape("qwen2", 896, 24, 14, 2, 4864, 151936, True),  # Qwen2.5-0.5B
    "1.5B": Shape("qwen2", 1536, 28, 12, 2, 8960, 151936, True),  # Qwen2.5-1.5B
    "8B": Shape("llama", 4096, 32, 32, 8, 14336, 128256, False),  # Llama-3.1-8B
}

CLASSES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}


@dataclass(frozen=True)
class Measured:
    """What one job came to.

    Attributes:
        tokens_per_second: Over the second half of the updates.
        peak_bytes: The most memory that was held; the GPU's, where there is one.
        linear: Parameters of all linear maps of the base.
        trained: Parameters that are trained.
    """

    tokens_per_second: float
    peak_bytes: int
    linear: int
    trained: int


def build(shape: Shape, dtype: torch.dtype, device: torch.device, tokens: int) -> PreTrainedModel:
    """The model, made on the device."""
    config_class, model_class = CLASSES[shape.kind]
    config = config_class(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        intermediate_size=shape.inner,
        vocab_size=shape.vocabulary,
        max_position_embeddings=tokens,
        tie_word_embeddings=shape.tied,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return model_class(config)
    finally:
        torch.set_default_dtype(before)


def linear_parameters(model: nn.Module) -> int:
    """Numbers in the matrices that every token is multiplied with; a tied head is one of them, an embedding is not."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))


def rate_of(ends: Sequence[float], tokens: int) -> float:
    """Tokens per second over the second half of the updates."""
    first = (len(ends) - 1) // 2
    return tokens * (len(ends) - 1 - first) / (ends[-1] - ends[first])


def peak(device: torch.device) -> int:
    """The most memory that was held since the last reset; of the process, where there is no GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def random_row(vocabulary: int, tokens: int) -> Callable[[Sequence[int]], Batch]:
    """Makes a packed batch of one row of random tokens from the row's number."""

    def collate(rows: Sequence[int]) -> Batch:
        ids = torch.randint(2, vocabulary, (1, tokens), generator=torch.Generator().manual_seed(int(rows[0])))
        last = torch.tensor([[-100]])
        return {
            "input_ids": ids,
            "position_ids": torch.arange(tokens)[None],
            "segment_ids": torch.zeros_like(ids),
            "segment_lengths": (tokens,),
            "labels": torch.cat([ids[:, 1:], last], 1),
            "row_ids": tuple(int(row) for row in rows),
        }

    return collate


def ours(shape: Shape, method: str, tokens: int, steps: int, device: torch.device, recomputes: bool | str) -> Measured:
    """Burnish on this job."""
    full = method == "full"
    precision = choose_precision("bf16" if device.type == "cuda" else "fp32", device, trains_base=full)
    model = build(shape, precision.base, device, tokens)
    linear = linear_parameters(model)
    if not supports_packing(model):
        raise RuntimeError(f"rows of `{shape.kind}` models cannot be packed")
    attached = attach(model, FullConfig() if full else LoraConfig(rank=16))
    with precision.context(device):
        fuse(model, projection_of)
    if recomputes:
        checkpoint_activations(model, selective=recomputes == "selective")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    ends: list[float] = []

    def clock(event: Event) -> None:
        if isinstance(event, Stepped):
            ends.append(time.perf_counter())

    train(job_of(model, attached, shape, tokens, steps, precision), TrainState(), [clock])
    return Measured(rate_of(ends, tokens), peak(device), linear, attached.parameters_count)


def job_of(model: PreTrainedModel, attached: Attached, shape: Shape, tokens: int, steps: int, precision: object) -> Job:
    """What the loop needs: nothing is evaluated and nothing saved."""
    updates = Updates(
        np.full(steps, tokens),
        batch_size=1,
        seed=0,
        batches=BatchConfig(layout="packed", micro_batch_tokens=tokens),
        layout="packed",
        collate=random_row(shape.vocabulary, tokens),
    )
    trainable = attached.trainable()
    head = head_of(model)
    return Job(
        model=model,
        terms=supervised_terms(),
        updates=updates,
        optimizer=build_optimizer(trainable, OptimConfig(), 1e-4, rate_scales=attached.rate_scales()),
        stages=Stages.single(dict(trainable), OptimConfig(schedule="constant", warmup_steps=0), (1e-4, "fixed"), steps),
        trainable=trainable,
        context=lambda: ModelContext(model, head),
        precision=precision,  # type: ignore[arg-type]
        evaluate=lambda: {"loss": 0.0},
        save=lambda state: Path("nowhere"),
    )
