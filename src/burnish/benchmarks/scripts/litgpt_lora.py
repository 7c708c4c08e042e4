"""LitGPT's `finetune_lora`, or `finetune_full`, from a converted copy of the model.

Its recipe knows a warm-up with a cosine only, clips no gradients and averages micro-batches whatever their number of
tokens, so that its held-out loss is not that of the others. The work of an update is the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from litgpt import GPT
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import JSON
from litgpt.finetune.full import setup as tune_full
from litgpt.finetune.lora import setup as tune_lora
from litgpt.lora import GPT as LoraGPT
from litgpt.prompts import Default
from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
from measure import Watch, held_out_loss, read_job, read_rows, tell, versions
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

NAME = "SmolLM2-135M-Instruct"


def write_data(folder: Path) -> Path:
    """The rows in its own form; it wants held-out rows, which are not looked at while it trains."""
    data = folder / "litgpt-data"
    data.mkdir(exist_ok=True)
    rows = [
        {"instruction": row["prompt"], "input": "", "output": row["completion"]}
        for row in read_rows(folder / "train.jsonl")
    ]
    (data / "train.json").write_text(json.dumps(rows), encoding="utf-8")
    (data / "val.json").write_text(json.dumps(rows[:1]), encoding="utf-8")
    return data


class Seen:
    """Finds the model at its first forward pass in training, which is where the first update begins."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.model = watch, None
        self.handles = [
            register_module_forward_pre_hook(self.before),
            register_optimizer_step_post_hook(lambda *_: watch.end()),
        ]

    def before(self, module: torch.nn.Module, args: Any) -> None:
        """Called before every module until the model is found."""
        if isinstance(module, (GPT, LoraGPT)) and module.training:
            self.model = module
            self.watch.parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
            self.watch.begin()
            self.handles[0].remove()


def main() -> None:
    """Convert, train and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--micro-batch", type=int, default=0)
    arguments = parser.parse_args()
    job = read_job(arguments.folder)
    # a folder named as the hub names this model would get a BOS before every row, which the rows do not have
    checkpoint = arguments.folder / "litgpt" / "model"
    if not (checkpoint / "lit_model.pth").exists():
        checkpoint.parent.mkdir(exist_ok=True)
        copy_model(arguments.folder / "model", checkpoint)
        convert_hf_checkpoint(checkpoint_dir=checkpoint, model_name=NAME)
    watch = Watch(job["expected"]["updates"])
    seen = Seen(watch)
    data = JSON(json_path=write_data(arguments.folder), mask_prompt=True, prompt_style=Default(), num_workers=0)
    common = {
        "checkpoint_dir": checkpoint,
        "out_dir": arguments.folder / "litgpt-out",
        "precision": arguments.precision,
        "data": data,
        "train": TrainArgs(
            save_interval=None,
            log_interval=1000,
            global_batch_size=job["batch_size"],
            micro_batch_size=arguments.micro_batch or job["batch_size"],
            lr_warmup_steps=1,
            epochs=job["epochs"],
            max_seq_length=job["max_tokens"],
        ),
        "eval": EvalArgs(interval=10**6, max_new_tokens=1, max_iters=1, final_validation=False),
        "optimizer": {
            "class_path": "torch.optim.AdamW",
            "init_args": {"lr": job["learning_rate"], "weight_decay": 0.0, "betas": [0.9, 0.999]},
        },
        "seed": 0,
    }
    TUNERS[job["method"]](job, common)
    for item in data.train_dataset:
        watch.count(item["input_ids"][None], item["labels"][None])
    seen.model.eval()
    seen.model.max_seq_length = job["max_tokens"]  # it was set to the longest training row
    scores = held_out_loss(seen.model, read_rows(arguments.folder / "held_out.jsonl"))
    examples = job["expected"]["rows"] * job["epochs"]
    watch.counts["places"] = 0
    watch.answer(scores, versions("litgpt", "lightning"), examples=examples)


def with_lora(job: dict[str, Any], common: dict[str, Any]) -> None:
    """LoRA on every linear map; its `mlp` is all of up, gate and down."""
    targets = job["targets"]
    if targets != "all-linear":
        raise SystemExit("LitGPT takes gate, up and down of the MLP together only")
    lora = {"lora_r": job["rank"], "lora_alpha": job["alpha"], "lora_dropout": 0.0}
    lora |= {f"lora_{part}": True for part in ("query", "key", "value", "projection", "mlp")}
    called_with(common, lora)
    tune_lora(**common, **lora)


def with_everything(job: dict[str, Any], common: dict[str, Any]) -> None:
    """Every weight."""
    called_with(common, {})
    tune_full(**common)


def called_with(common: dict[str, Any], more: dict[str, Any]) -> None:
    """Write the command line that it reads again when it has trained, to note how it was called and to merge by it."""
    options = {"precision": common["precision"], **more}
    sys.argv = ["litgpt", str(common["checkpoint_dir"])]
    sys.argv += [f"--{name}={json.dumps(value)}" for name, value in options.items()]


TUNERS = {"lora": with_lora, "full": with_everything}


def copy_model(source: Path, target: Path) -> None:
    """Its converter writes into the folder that it reads; weights are linked, small files copied."""
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).hardlink_to(file)


if __name__ == "__main__":
    tell(note="converting")
    main()
