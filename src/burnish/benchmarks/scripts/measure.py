"""What every contender measures in the same way. Run as a file in the contender's own Python: needs torch only.

A contender tells its runner one JSON object a line, behind ``BENCH``: its progress, and at last what it measured.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

STARTED = float(os.environ.get("BENCH_STARTED", time.time()))
"""When the runner started this process, so that the imports count as start-up."""

MARK = "BENCH "
IGNORED = -100
Row = dict[str, Any]


def tell(**values: Any) -> None:
    """One line for the runner."""
    print(MARK + json.dumps(values), flush=True)


def read_job(folder: Path) -> dict[str, Any]:
    """The settings that all contenders share."""
    return json.loads((folder / "job.json").read_text(encoding="utf-8"))


def read_rows(path: Path) -> list[Row]:
    """Rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def versions(*names: str) -> dict[str, str]:
    """The installed versions of libraries; those that are absent are left out."""
    found = {}
    for name in ("torch", *names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Watch:
    """Counts what a model is trained on and when, from outside of the trainer that trains it.

    The sums of the token ids and of the labels tell whether two contenders saw the same tokens under the same mask,
    in whatever order and layout.

    Args:
        total: Updates expected, for the progress.
    """

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self.first = 0.0
        self.ends: list[float] = []
        self.parameters = 0
        self.peak = 0
        self.counts = {"rows": 0, "tokens": 0, "trained_tokens": 0, "token_sum": 0, "label_sum": 0, "places": 0}

    def count(self, ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """Count one batch.

        Args:
            ids: [B, T].
            labels: [B, T] with -100 where nothing is trained, or [B] classes.
            mask: [B, T], 0 at padding; None where there is none.
        """
        real = ids if mask is None or mask.dim() != ids.dim() else ids[mask.bool()]
        trained = labels[labels != IGNORED]
        values = (len(ids), real.numel(), trained.numel(), int(real.sum()), int(trained.sum()), ids.numel())
        for key, value in zip(self.counts, values, strict=True):
            self.counts[key] += value

    def see(self, model: torch.nn.Module) -> None:
        """Count every batch that the model is trained on from now on, and the parameters that are trained."""
        self.parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        model.register_forward_pre_hook(self._before, with_kwargs=True)

    def begin(self) -> None:
        """An update begins; the first one ends the start-up."""
        self.first = self.first or time.time()

    def end(self) -> None:
        """An update has ended."""
        self.ends.append(time.time())
        self.peak = peak_bytes()
        tell(progress=len(self.ends), total=self.total)

    def _before(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module.training and "labels" in kwargs:
            self.count(kwargs["input_ids"], kwargs["labels"], kwargs.get("attention_mask"))

    def answer(self, scores: dict[str, float], found: dict[str, str], **more: Any) -> None:
        """The last line: everything measured."""
        seconds = self.ends[-1] - self.first
        counts = {key: value for key, value in self.counts.items() if key != "rows"}
        padding = 1 - self.counts["tokens"] / self.counts["places"] if self.counts["places"] else None
        tell(
            answer={
                "tokens_per_second": self.counts["tokens"] / seconds,
                "examples_per_second": more.pop("examples") / seconds,
                "seconds": seconds,
                "update_seconds": [b - a for a, b in zip([self.first, *self.ends], self.ends, strict=False)],
                "startup_seconds": self.first - STARTED,
                "peak_bytes": self.peak,
                "updates": len(self.ends),
                "trained_parameters": self.parameters,
                "threads": torch.get_num_threads(),
                "padding": padding,
                **counts,
                **scores,
                "versions": found,
                **more,
            }
        )


@torch.no_grad()
def held_out_loss(logits_of: Callable[[torch.Tensor], torch.Tensor], rows: Sequence[Row]) -> dict[str, float]:
    """Mean negative log-likelihood of the completions' tokens, row by row, the logits in fp32.

    Args:
        logits_of: From ids [1, T] to logits [1, T, V].
        rows: With ``ids`` and ``prompt_tokens``.
    """
    total, count = 0.0, 0
    for row in rows:
        ids, prompt = row["ids"], row["prompt_tokens"]
        logits = logits_of(torch.tensor([ids]))[0, prompt - 1 : -1].float()
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[prompt:]), reduction="sum"))
        count += len(ids) - prompt
    return {"held_out_loss": total / count}


@torch.no_grad()
def held_out_classes(logits_of: Callable[[torch.Tensor], torch.Tensor], rows: Sequence[Row]) -> dict[str, float]:
    """Mean negative log-likelihood of the classes and accuracy, row by row, the logits in fp32.

    Args:
        logits_of: From ids [1, T] to logits [1, classes].
        rows: With ``ids`` and ``class``, its number.
    """
    total, right = 0.0, 0
    for row in rows:
        logits = logits_of(torch.tensor([row["ids"]]))[0].float()
        total += float(torch.nn.functional.cross_entropy(logits[None], torch.tensor([row["class"]])))
        right += int(logits.argmax()) == row["class"]
    return {"held_out_loss": total / len(rows), "held_out_accuracy": right / len(rows)}
