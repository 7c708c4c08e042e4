"""The plain script that `distributed.py` measures beside Burnish: one process of several, one engine, no framework.

    python distributed_plain.py FOLDER ENGINE BATCH UPDATES      # with RANK, WORLD_SIZE, ... set

The same model, rows, padding, order of magnitude of work and optimiser; what it leaves out is all that Burnish checks,
counts and writes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM, AutoTokenizer

RATE = 2e-5


def ddp(model: Any, device: torch.device) -> tuple[Any, Any]:
    """As in PyTorch's tutorial."""
    wrapped = DistributedDataParallel(model)
    return wrapped, torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)


def fsdp2(model: Any, device: torch.device) -> tuple[Any, Any]:
    """As in PyTorch's tutorial: every layer, then the model."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)


def zero(stage: int, model: Any, device: torch.device) -> tuple[Any, Any]:
    """As in DeepSpeed's."""
    import deepspeed

    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)
    return engine, engine


ENGINES: dict[str, Any] = {
    "ddp": ddp,
    "fsdp2": fsdp2,
    "zero2": lambda model, device: zero(2, model, device),
    "zero3": lambda model, device: zero(3, model, device),
}


def filled(rows: list[list[int]], width: int, value: int, device: torch.device) -> torch.Tensor:
    """Rows as one tensor."""
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], device=device)


def main(folder: Path, engine: str, batch: int, updates: int) -> None:
    """Train, and write the speed of every update."""
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).to(device)
    model.train()
    texts = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    asked = [tokenizer(row["prompt"])["input_ids"] for row in texts]
    answered = [[*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id] for row in texts]
    ids = [[*prompt, *completion] for prompt, completion in zip(asked, answered, strict=True)]
    labels = [[-100] * len(prompt) + completion for prompt, completion in zip(asked, answered, strict=True)]
    model, optimizer = ENGINES[engine](model, device)
    speeds = []
    for update in range(updates):
        rows = ids[update * batch : (update + 1) * batch]
        began = time.perf_counter()
        mine = rows[rank::world]
        wanted = labels[update * batch : (update + 1) * batch][rank::world]
        width = max(map(len, mine))
        inputs, mask = filled(mine, width, 0, device), filled([[1] * len(row) for row in mine], width, 0, device)
        loss = model(input_ids=inputs, attention_mask=mask, labels=filled(wanted, width, -100, device)).loss
        if engine.startswith("zero"):
            model.backward(loss)
            model.step()
        else:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()
        speeds.append(sum(map(len, rows)) / (time.perf_counter() - began))
    if rank == 0:
        (folder / "plain.json").write_text(json.dumps(speeds))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
