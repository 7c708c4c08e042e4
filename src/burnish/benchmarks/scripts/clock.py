"""The watch of ``measure.py`` as a callback of transformers' Trainer, and of everything that is built on it."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import Row, Watch, held_out_classes, held_out_loss, read_job, read_rows
from transformers import BitsAndBytesConfig, TrainerCallback

Score = Callable[[Callable[[torch.Tensor], torch.Tensor], Sequence[Row]], dict[str, float]]
SCORES: dict[str, Score] = {"completion": held_out_loss, "classification": held_out_classes}


class Clock(TrainerCallback):
    """Sees the model when training begins, and notes when each update begins and ends."""

    def __init__(self, total: int) -> None:
        self.watch = Watch(total)
        self.model: Any = None

    def on_train_begin(self, *_: Any, **given: Any) -> None:
        """The model is complete: adapters attached, base frozen."""
        self.model = given["model"]
        self.watch.see(self.model)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """An update begins."""
        self.watch.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """An update has ended."""
        self.watch.end()

    def answer(self, folder: Path, found: dict[str, str]) -> None:
        """Score the held-out rows and print what was measured."""
        job = read_job(folder)
        self.model.eval()
        scores = SCORES[job["kind"]](lambda ids: self.model(input_ids=ids).logits, read_rows(folder / "held_out.jsonl"))
        self.watch.answer(scores, found, examples=job["expected"]["rows"] * job["epochs"])


def parser(description: str | None) -> argparse.ArgumentParser:
    """What all contenders on transformers' Trainer understand."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("folder", type=Path)
    made.add_argument("--dtype", default="float32", help="number format of the weights")
    made.add_argument("--autocast", action="store_true", help="weights as they are, products in bf16")
    made.add_argument("--micro-batch", type=int, default=0, help="rows of a forward pass; all of an update without it")
    made.add_argument("--by-length", action="store_true", help="rows of like length together")
    made.add_argument("--attention", default=None)
    made.add_argument("--compile", action="store_true")
    return made


def shared(arguments: argparse.Namespace, job: dict[str, Any], name: str) -> dict[str, Any]:
    """Training arguments that every contender on transformers' Trainer gets: those of the job, and no extras."""
    micro = arguments.micro_batch or job["batch_size"]
    order = {"train_sampling_strategy": "group_by_length"} if arguments.by_length else {}
    return {
        "output_dir": tempfile.mkdtemp(prefix=f"{name}-", dir=arguments.folder),  # LLaMA-Factory wants an empty one
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": job["batch_size"] // micro,
        "num_train_epochs": job["epochs"],
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "bf16": arguments.autocast,
        "use_cpu": not torch.cuda.is_available(),
        "torch_compile": arguments.compile,
        "save_strategy": "no",
        "report_to": [],
        "logging_steps": 1000,
        "disable_tqdm": True,
        "seed": 0,
        **order,
    }


def load(auto: Any, arguments: argparse.Namespace, **more: Any) -> Any:
    """The job's model in the wanted number format, and in 4 bits where the job says so."""
    if read_job(arguments.folder)["nf4"]:
        values = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16, **values
        )
    if arguments.attention:
        more["attn_implementation"] = arguments.attention
    return auto.from_pretrained(arguments.folder / "model", dtype=getattr(torch, arguments.dtype), **more)
