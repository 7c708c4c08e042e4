"""The arithmetic of a run: its tokens, its pairs of tokens that attention looks at, and what each costs.

A matrix of P numbers costs 2 P operations for each token forward, 2 P for the gradient of its input and 2 P for its
own. Attention over a row of n tokens costs 4 n^2 D in each layer forward and twice that backward, half of it where it
is causal (Kaplan et al., 2020, table 1; Hoffmann et al., 2022, appendix F).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from burnish.adapters.registry import METHODS
from burnish.forecast.sketch import Sketch

SAMPLED = 200
"""Updates that are cut to count places; of a longer run so many, evenly spaced."""


@dataclass(frozen=True)
class Work:
    """What the updates of a run compute.

    Attributes:
        updates: How many there are.
        micro_batches: Forward and backward passes.
        tokens: Places, padding included.
        pairs: Sum of the squares of the rows' lengths.
        operations: Of all of them.
    """

    updates: int
    micro_batches: float
    tokens: float
    pairs: float
    operations: float


def work_of(sketch: Sketch) -> Work:
    """Count the work of a recipe's updates from its prepared rows."""
    updates = sketch.updates()
    total = len(updates)
    steps = np.unique(np.linspace(0, total - 1, min(total, SAMPLED)).astype(int))
    counts = np.zeros(3)
    for step in steps:
        for rows in updates.cut(int(step)):
            counts += (1, *places(updates.lengths[rows], updates.layout == "packed"))
    micro, tokens, pairs = counts * total / len(steps)
    return Work(total, micro, tokens, pairs, operations(sketch, tokens, pairs))


def places(lengths: Any, packed: bool) -> tuple[int, int]:
    """Tokens and pairs of tokens of a micro-batch, padding included."""
    if packed:
        return int(lengths.sum()), int((lengths**2).sum())
    return len(lengths) * int(lengths.max()), len(lengths) * int(lengths.max()) ** 2


def operations(sketch: Sketch, tokens: float, pairs: float, *, backward: bool = True) -> float:
    """Operations of so many tokens and pairs, forward and backward or forward alone."""
    config = sketch.config
    base = any(METHODS[adapter.method].format == "model" for adapter in config.adapters)
    values = sketch.values.get_text_config()
    passes = (3.0 if base else 2.0) if backward else 1.0
    if backward and config.train.gradient_checkpointing is True:
        passes += 1.0
    layers = getattr(values, "num_hidden_layers", 1)
    attention = layers * 4 * values.hidden_size * pairs / (1 if config.classifies else 2)
    return passes * (2 * matrices(sketch) * tokens + attention)


def matrices(sketch: Sketch) -> int:
    """Numbers in the model's matrices, without tables of embeddings that nothing multiplies with."""
    model = sketch.shapes()
    tables = {id(p) for m in model.modules() if type(m).__name__ == "Embedding" for p in m.parameters()}
    head = model.get_output_embeddings()
    counted = {id(p): p.numel() for p in model.parameters() if p.dim() == 2 and id(p) not in tables}
    if head is not None:  # only places with a label reach it
        weight = head.weight
        share = sketch.prepared.train.n_trained / max(1, sketch.prepared.train.n_tokens)
        counted[id(weight)] = round(weight.numel() * share)
    return sum(counted.values())
