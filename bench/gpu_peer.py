"""The same job through TRL's SFTTrainer, PEFT's LoRA and liger-kernel's fused layers."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from gpu_job import Measured, Shape, build, linear_parameters, peak, rate_of
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Notes when each update ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """An update has ended."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def theirs(
    shape: Shape, method: str, tokens: int, steps: int, device: torch.device, recomputes: bool | str
) -> Measured:
    """TRL on this job; it knows whole checkpointing only, so `selective` is that."""
    on_gpu = device.type == "cuda"
    full = method == "full"
    model = build(shape, torch.bfloat16 if on_gpu and not full else torch.float32, device, tokens)
    linear = linear_parameters(model)
    generator = torch.Generator().manual_seed(0)
    rows = [{"input_ids": torch.randint(2, shape.vocabulary, (tokens,), generator=generator).tolist()}] * steps
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<eos>"))
    clock = Clock()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=1,
                max_steps=steps,
                learning_rate=1e-4,
                lr_scheduler_type="constant",
                max_length=tokens,
                gradient_checkpointing=bool(recomputes),
                gradient_checkpointing_kwargs={"use_reentrant": False},
                use_liger_kernel=on_gpu,
                bf16=on_gpu,
                use_cpu=not on_gpu,
                save_strategy="no",
                report_to=[],
                logging_steps=1000,
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"),
            peft_config=None if full else LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
            callbacks=[clock],
        )
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        trainer.train()
    return Measured(rate_of(clock.ends, tokens), peak(device), linear, trained)
