"""The other side of `beside.py`: a method of PEFT or of AdapterHub's `adapters` in a plain loop, in any environment.

    python bench/beside_loop.py FOLDER

`FOLDER/job.json` holds rows, order, learning rates, the first values of the head, and the method; the classes of the
test rows go to `FOLDER/answer.json`. Nothing of Burnish is imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

Rows = Sequence[Sequence[int]]


class Loop:
    """One training.

    Args:
        job: What ``job.json`` holds.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        torch.manual_seed(job["seed"])
        base = AutoModel.from_pretrained(job["model"])
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        self.model = WITH[job["library"]](base, job["class"], dict(job["settings"]))
        head = job["head"]
        self.head = nn.Linear(len(head["weight"][0]), len(head["weight"]))
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor(head["weight"]))
            self.head.bias.copy_(torch.tensor(head["bias"]))
        self.dropout = nn.Dropout(head["dropout"])
        adapter = [p for p in self.model.parameters() if p.requires_grad]
        self.trained = [*adapter, *self.head.parameters()]
        self.groups: list[dict[str, Any]] = [
            {"params": adapter, "scale": 1.0},
            {"params": list(self.head.parameters()), "scale": job["head_rate_scale"]},
        ]

    def train(self) -> list[int]:
        """Classes of the test rows, by the checkpoint that was best on the validation rows."""
        job, best, kept = self.job, -1.0, list[Tensor]()
        optimizer = torch.optim.AdamW(self.groups, weight_decay=0.0)
        for step, (rate, rows) in enumerate(zip(job["rates"], job["order"], strict=True)):
            self.model.train()
            self.dropout.train()
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            labels = torch.tensor([job["train"]["labels"][r] for r in rows])
            loss = nn.functional.cross_entropy(self._logits([job["train"]["ids"][r] for r in rows]), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(self.trained, job["max_grad_norm"])
            optimizer.step()
            optimizer.zero_grad()
            if (step + 1) % job["evaluate_every"] == 0 or step + 1 == len(job["rates"]):
                value = macro_f1(job["validation"]["labels"], self._classes(job["validation"]["ids"]))
                if value > best:
                    best, kept = value, deepcopy([p.data for p in self.trained])
        for parameter, value_ in zip(self.trained, kept, strict=True):
            parameter.data.copy_(value_)
        return self._classes(job["test"]["ids"])

    def _logits(self, rows: Rows) -> Tensor:
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        hidden = hidden[:, -ids.shape[1] :].float()  # the head reads the places of the row, not those of a prompt
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.head(self.dropout(pooled))

    @torch.no_grad()
    def _classes(self, rows: Rows) -> list[int]:
        self.model.eval()
        self.dropout.eval()
        return [int(k) for start in range(0, len(rows), 32) for k in self._logits(rows[start : start + 32]).argmax(1)]


def with_peft(base: nn.Module, kind: str, settings: dict[str, Any]) -> nn.Module:
    """The base in PEFT's wrapper."""
    import peft

    wrapped: nn.Module = peft.get_peft_model(base, getattr(peft, kind)(task_type="FEATURE_EXTRACTION", **settings))
    return wrapped


def with_adapters(base: nn.Module, kind: str, settings: dict[str, Any]) -> nn.Module:
    """The base as AdapterHub changes it."""
    import adapters

    model: Any = base
    adapters.init(model)
    model.add_adapter("job", config=getattr(adapters, kind)(**settings))
    model.train_adapter("job")
    return base


WITH = {"peft": with_peft, "adapters": with_adapters}


def macro_f1(true: Sequence[int], found: Sequence[int]) -> float:
    """The mean over classes of 2 tp / (2 tp + fp + fn)."""
    classes = sorted(set(true))
    pairs = list(zip(true, found, strict=True))
    total = 0.0
    for k in classes:
        right = sum(t == f == k for t, f in pairs)
        wrong = sum((t == k) != (f == k) for t, f in pairs)
        total += 2 * right / max(1, 2 * right + wrong)
    return total / len(classes)


def main() -> None:
    """Train, and write what came out."""
    folder = Path(sys.argv[1])
    loop = Loop(json.loads((folder / "job.json").read_text(encoding="utf-8")))
    classes = loop.train()
    told = {"classes": classes, "trainable": sum(p.numel() for p in loop.trained)}
    (folder / "answer.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
