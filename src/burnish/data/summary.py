"""The data of a run as JSON, for `data.json`, the report and `burnish inspect`."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from burnish.data.config import SourceConfig
from burnish.data.formats import Plan
from burnish.data.marking import row_spans
from burnish.data.rows import DroppedRows, Read
from burnish.data.table import TokenTable
from burnish.data.tally import Tally

_PERCENTILES = (5, 25, 50, 75, 95, 99)
_MOST_FILES = 50
SHOWN_ROWS = 5


def source_summary(part: str, source: SourceConfig, read: Read, plan: Plan, dropped: int) -> dict[str, Any]:
    """One source: files with their hashes, the format and why, the columns, and the rows."""
    files = [f.to_json() for f in read.files]
    digest = hashlib.sha256("\n".join(f"{f.sha256}" for f in read.files).encode()).hexdigest()
    return {
        "part": part,
        "path": source.path,
        "format": plan.format,
        "format_why": plan.why,
        "chat": plan.chat,
        "columns": list(read.columns),
        "columns_used": [name for name in plan.columns if name in read.columns],
        "mapping": dict(plan.rename),
        "prompt": source.prompt,
        "completion": source.completion,
        "rows": read.rows,
        "dropped_rows": dropped,
        "bad_bytes": sum(f.bad_bytes for f in read.files),
        "bad_byte_rows": sum(f.bad_byte_rows for f in read.files),
        "sha256": read.files[0].sha256 if len(read.files) == 1 else digest,
        "n_files": len(files),
        "files": files[:_MOST_FILES],
    }


def split_summary(
    table: TokenTable, tally: Tally, dropped: DroppedRows, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """One split: counts, lengths, shares, its hash, and its first rows with the trained stretches apart."""
    return {
        "rows": len(table),
        "tokens": table.n_tokens,
        "trained_tokens": table.n_trained,
        "trained_share": table.n_trained / table.n_tokens if table.n_tokens else None,
        "lengths": percentiles(table.lengths),
        "trained_lengths": percentiles(table.trained_counts),
        "prompt_lengths": percentiles(table.prompt_lengths),
        "truncated_rows": tally.truncated,
        "lost_target_tokens": tally.lost_targets,
        "dropped_rows": dropped.count,
        "sha256": table.content_hash(),
        "shown": [
            {"id": table.ids[i], "spans": [s.to_json() for s in row_spans(tokenizer, table, i)]}
            for i in range(min(SHOWN_ROWS, len(table)))
        ],
    }


def percentiles(values: NDArray[Any]) -> dict[str, float] | None:
    """Minimum, maximum, mean and percentiles of counts; None for none. A percentile is a value that occurs."""
    if not len(values):
        return None
    points = np.percentile(values, _PERCENTILES, method="inverted_cdf")
    named = {f"p{p}": int(v) for p, v in zip(_PERCENTILES, points, strict=True)}
    return {"min": int(values.min()), **named, "max": int(values.max()), "mean": round(float(values.mean()), 2)}
