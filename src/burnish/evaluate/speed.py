"""How fast a model answers once it is warm: latency of a batch and rows a second, at fixed batch sizes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from burnish.evaluate.config import EvaluateConfig
from burnish.evaluate.loss import View
from burnish.evaluate.run import Split
from burnish.models.generate_tasks import generate_tasks

BATCH_SIZES = (1, 32)
WARM_UP = 3
MOST, BUDGET = 40, 2.0
"""Batches of one size that are timed, and seconds after which no further one is begun; three are timed in any case."""
FEWEST = 3
NEW_TOKENS = 16
"""Longest answer of a timed generation."""


def measure_speed(view: View, split: Split, config: EvaluateConfig, *, budget: float = BUDGET) -> dict[str, Any]:
    """Latency and throughput of answering rows, warm, at batch sizes 1 and 32.

    Timed is everything from a row's tokens to its answer, on the device that the model is on: making the tensors, the
    forward passes, bringing the numbers back. Reading and tokenising the texts is not. Rows are taken in the order of
    the split, those of one batch in one call, so that a batch is as wide as its longest row. The clock is read when
    the device has finished.

    Args:
        view: The model.
        split: Its rows.
        config: How answers are generated, where there are no classes.
        budget: Seconds for each batch size.

    Returns:
        What was timed, and for each batch size p50 and p95 of a batch's milliseconds (linear between the nearest
        ranks), rows a second over all timed batches, and how many were timed.
    """
    what, answer = _answering(view, split, config)
    result: dict[str, Any] = {
        "timed": what,
        "device": _device_name(view.loaded.model.device),
        "threads": torch.get_num_threads(),
        "batches": {},
    }
    for size in BATCH_SIZES:
        count = min(size, len(split.table))
        if count:
            result["batches"][str(size)] = _timed(answer, view.loaded.model.device, len(split.table), count, budget)
    return result


def _timed(
    answer: Callable[[list[int]], Callable[[], object]], device: torch.device, rows: int, size: int, budget: float
) -> dict[str, float]:
    started, seconds = time.perf_counter(), list[float]()
    for number in range(WARM_UP + MOST):
        call = answer([(number * size + i) % rows for i in range(size)])
        before = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        after = time.perf_counter()
        if number == WARM_UP - 1:
            started = after
        if number >= WARM_UP:
            seconds.append(after - before)
            if len(seconds) >= FEWEST and after - started > budget:
                break
    p50, p95 = np.percentile(seconds, [50, 95])
    return {
        "rows": size,
        "p50_ms": float(p50 * 1000),
        "p95_ms": float(p95 * 1000),
        "rows_per_second": size * len(seconds) / sum(seconds),
        "timed_batches": len(seconds),
    }


def _answering(
    view: View, split: Split, config: EvaluateConfig
) -> tuple[str, Callable[[list[int]], Callable[[], object]]]:
    wide = replace(view, batch_tokens=1 << 30)  # one forward pass, however many tokens
    if split.choices:
        what = "from a row's tokens to the probabilities of its classes"
        return what, lambda rows: partial(split.subset(rows).score, wide)
    short = config.generate.model_copy(update={"max_new_tokens": min(NEW_TOKENS, config.generate.max_new_tokens)})
    what = f"from a prompt's tokens to an answer of up to {short.max_new_tokens} tokens"

    def prepared(rows: list[int]) -> Callable[[], object]:
        prompts = [split.table.prompt(row).tolist() for row in rows]
        return partial(generate_tasks, view.loaded, prompts, split.table.tasks_of(rows), short, 1 << 30)

    return what, prepared


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
