"""TRL's SFTTrainer with PEFT's LoRA, as its documentation shows it or tuned for a processor."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from measure import BEGAN, answer, count_tokens, held_out_loss, read
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Notes when each update ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.first = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """The first update begins."""
        self.first = self.first or time.time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """An update has ended."""
        self.ends.append(time.time())


def main() -> None:
    """Train one epoch and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--accumulation", type=int, default=1)
    arguments = parser.parse_args()
    rows, held = read(arguments.folder / "train.jsonl"), read(arguments.folder / "held_out.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder / "model")
    model = AutoModelForCausalLM.from_pretrained(arguments.folder / "model", dtype=getattr(torch, arguments.dtype))
    clock = Clock()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(arguments.folder / "trl"),
            per_device_train_batch_size=arguments.batch,
            gradient_accumulation_steps=arguments.accumulation,
            num_train_epochs=1,
            learning_rate=2e-4,
            lr_scheduler_type="constant",
            warmup_steps=0,
            max_length=512,
            packing=False,
            completion_only_loss=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            logging_steps=1000,
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[clock],
    )
    trainer.train()
    tokens = count_tokens(tokenizer, rows)
    answer(
        tokens_per_second=tokens / (clock.ends[-1] - clock.first),
        startup_seconds=clock.first - BEGAN,
        updates=len(clock.ends),
        trained_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        held_out_loss=held_out_loss(trainer.model, tokenizer, held),
        versions={"trl": trl.__version__, "transformers": transformers.__version__},
    )


if __name__ == "__main__":
    main()
