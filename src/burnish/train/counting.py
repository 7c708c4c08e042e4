"""What an update holds, and what its loss comes to, over all processes: sums first, one division afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence

from burnish.core.types import Batch, Term
from burnish.train.distributed.group import Group
from burnish.train.distributed.shares import counted


def count_units(terms: Sequence[Term], batches: Sequence[Batch]) -> dict[str, float]:
    """Units of every term over the micro-batches of an update, by its name; penalties are no part of it."""
    real = counted(batches)
    return {t.name: sum(float(t.count(b)) for b in real if t.reads(b)) for t in terms if not t.once}


def seen_in(batches: Sequence[Batch]) -> dict[str, int]:
    """Rows, micro-batches, tokens and trained tokens of the task's own rows."""
    own = [batch for batch in counted(batches) if "source" not in batch]
    return {
        "rows": sum(len(batch["row_ids"]) for batch in own),
        "micro_batches": len(own),
        "tokens": sum(real_tokens(batch) for batch in own),
        "trained_tokens": sum(int((batch["labels"] != -100).sum()) for batch in own),
    }


def over_all(group: Group, units: dict[str, float], seen: dict[str, int]) -> tuple[dict[str, float], dict[str, int]]:
    """Both, added up over the processes."""
    if group.size == 1:
        return units, seen
    sums = group.sums([*units.values(), *seen.values()])
    rest = sums[len(units) :]
    return dict(zip(units, sums, strict=False)), {name: int(x) for name, x in zip(seen, rest, strict=True)}


def loss_over_all(group: Group, loss: float, parts: dict[str, float], names: Sequence[str]) -> float:
    """The loss of an update over the processes; the shares of its terms are added up in place.

    Args:
        group: The processes.
        loss: The part of this process.
        parts: Shares of the terms in it.
        names: All terms; one that reads nothing of an update has no share in it.
    """
    if group.size == 1:
        return loss
    rows = group.table([loss, *(parts.get(name, math.nan) for name in names)])
    for place, name in enumerate(names, 1):
        known = [row[place] for row in rows if not math.isnan(row[place])]
        if known:
            parts[name] = sum(known)
    return sum(row[0] for row in rows)


def real_tokens(batch: Batch) -> int:
    """Tokens that are no padding, on both sides of an encoder-decoder."""
    masks = [batch[key] for key in ("attention_mask", "decoder_attention_mask") if key in batch]  # type: ignore[literal-required]
    return sum(int(mask.sum()) for mask in masks) if masks else batch["input_ids"].numel()
