"""The losses of a few training rows, each with its graph: what a plan measures gradients by."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from burnish.core.findings import refuse_stops
from burnish.data.batches import BatchConfig, collate, micro_batches
from burnish.models.head import head_of
from burnish.models.load import Loaded, pad_id
from burnish.objectives.context import ModelContext
from burnish.ops.machine import use_all_cores
from burnish.train.config import RunConfig
from burnish.train.layout import decoder_start
from burnish.train.tasks import load_new, read_data, task_of

ROWS = 32
"""Training rows that are looked at."""

MICRO_BATCH_TOKENS = 1024


def sample_losses(config: RunConfig, rows: int = ROWS, *, one_by_one: bool = False) -> tuple[Loaded, Iterator[Tensor]]:
    """The recipe's model in fp32 and, lazily, the mean loss of each micro-batch of its first training rows.

    Args:
        config: The recipe.
        rows: How many rows.
        one_by_one: Whether every row is a micro-batch of its own, as the squares of gradients need it.

    Raises:
        UserError: The recipe, its data or its model is refused.
    """
    use_all_cores()
    prepared = read_data(config)
    refuse_stops(prepared.findings)
    config = task_of(config).settle(config, prepared)
    loaded = load_new(config, torch.float32)
    table = prepared.train.head(min(rows, len(prepared.train)))
    terms = task_of(config).terms(config, prepared)
    head = head_of(loaded.model) if loaded.classifier is None else None
    cut, parts = BatchConfig(micro_batch_tokens=MICRO_BATCH_TOKENS), len(table) if one_by_one else None

    def losses() -> Iterator[Tensor]:
        for chosen in micro_batches(range(len(table)), table.lengths, cut, parts, layout="bucketed"):  # type: ignore[arg-type]
            batch = collate(table, chosen, "bucketed", pad_id(loaded.tokenizer), decoder_start_id=decoder_start(loaded))
            context = ModelContext(loaded.model, head, classifier=loaded.classifier)
            yield sum(  # type: ignore[misc]
                term.weight * term.loss(batch, context).total / max(1.0, float(term.count(batch))) for term in terms
            )

    return loaded, losses()
