"""How long a forward pass takes: of the base, with the adapter beside it, and with the adapter merged."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from burnish.adapters.attach import Attached
from burnish.adapters.base import NotMergeable
from burnish.adapters.load import load as load_adapters
from burnish.core.types import Batch
from burnish.models.classifier_files import read_classifier, with_classifier
from burnish.models.forward import hidden_states, positions_of
from burnish.models.head import head_of
from burnish.models.load import Loaded, load
from burnish.models.probe import probe_ids, probing
from burnish.ops.machine import default_device
from burnish.train.folder import open_run
from burnish.train.handover import load_handed_over, read_recipe
from burnish.train.precision import DTYPES

TOKENS = 128
ROUNDS, SECONDS = 15, 4.0
"""Rounds of the passes, and the time after which there are no more."""

Pass = Callable[[], Any]


def latencies(run: Path, tokens: int = TOKENS) -> dict[str, Any]:
    """Median seconds of a forward pass over one row that ends in the next token's logits (of a classifier: the row).

    The passes take turns, so that a drift of the machine meets all alike.

    Args:
        run: A finished run.
        tokens: Length of the row, or what the model has positions for.

    Returns:
        ``base``, ``unmerged`` and ``merged``, each where it exists; ``tokens``; ``not_mergeable`` says why not.
    """
    folder = open_run(run)
    config = read_recipe(folder)
    if (folder.final / "config.json").is_file():
        whole = load_handed_over(run)
        found = _take_turns({"merged": _forward(whole, tokens)})
        return {**found, "tokens": _length(whole, tokens), "whole_model": True}
    computes = (folder.read("model.json") or {}).get("precision", {}).get("compute", "fp32")

    def opened() -> tuple[Loaded, Attached]:
        loaded = load(config.model, DTYPES[computes], verify=False, headless=config.classifies)
        if config.classifies:
            loaded = with_classifier(loaded, read_classifier(folder.final))
        loaded.model.to(default_device())  # type: ignore[arg-type]
        if loaded.classifier is not None:
            loaded.classifier.to(loaded.model.device)
        return loaded, load_adapters(folder.final, loaded.model)

    loaded, attached = opened()
    passes = {"unmerged": _forward(loaded, tokens)}
    if not attached.trains_base:
        passes = {"base": _forward(loaded, tokens, attached), **passes}
    why = ""
    try:
        other, merging = opened()
        merging.merge_()
        passes["merged"] = _forward(other, tokens)
    except NotMergeable as error:
        why = error.what
    found = _take_turns(passes)
    return {**found, "tokens": _length(loaded, tokens), **({"not_mergeable": why} if why else {})}


def _length(loaded: Loaded, tokens: int) -> int:
    return min(tokens, positions_of(loaded.model.config) or tokens)


def _forward(loaded: Loaded, tokens: int, off: Attached | None = None) -> Pass:
    """One pass over random ids; the adapters are off where ``off`` is given."""
    ids = probe_ids(loaded.model, _length(loaded, tokens))
    batch: Batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if loaded.kind == "seq2seq":
        batch["decoder_input_ids"] = ids[:, :1]
    head = head_of(loaded.model) if loaded.classifier is None else None

    def once() -> None:
        with probing(loaded.model), off.disabled() if off is not None else nullcontext():
            hidden = hidden_states(loaded.model, batch)
            if head is not None:
                head(hidden[:, -1])
            if hidden.device.type == "cuda":
                torch.cuda.synchronize(hidden.device)

    return once


def _take_turns(passes: Mapping[str, Pass]) -> dict[str, float]:
    for one in passes.values():  # the first pass of each compiles, maps and fills caches
        one()
    times: dict[str, list[float]] = {name: [] for name in passes}
    began = time.perf_counter()
    for _ in range(ROUNDS):
        for name, one in passes.items():
            start = time.perf_counter()
            one()
            times[name].append(time.perf_counter() - start)
        if time.perf_counter() - began > SECONDS:
            break
    return {name: statistics.median(values) for name, values in times.items()}
