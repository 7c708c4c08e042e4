"""The errors of a model as a table for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

FIRST = ("id", "text", "text_pair", "true", "predicted", "confidence", "probability_of_true")
TOLD = frozenset(("true class", "predicted class", "confidence"))
"""Traits that other columns say already."""
LAST = ("rare_words", "label_error_rank", "suggested")


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows of ``Errors.rows`` as CSV (RFC 4180), texts as they are: line breaks and commas are quoted.

    Columns: those of ``FIRST``, a probability for each class, one for each trait, those of ``LAST``.
    """
    listed = list(rows)
    shares = list(dict.fromkeys(label for row in listed for label in row["probabilities"]))
    traits = [name for name in listed[0]["traits"] if name not in TOLD] if listed else []
    pair = any("text_pair" in row for row in listed)
    first = [name for name in FIRST if name != "text_pair" or pair]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*first, *(f"p({label})" for label in shares), *traits, *LAST])
    for row in listed:
        told = {**row, "rare_words": " ".join(row["rare_words"])}
        cells = [
            *(told.get(n) for n in first),
            *(row["probabilities"].get(label) for label in shares),
            *(row["traits"][name] for name in traits),
        ]
        writer.writerow(["" if c is None else c for c in (*cells, *(told[n] for n in LAST))])
    return out.getvalue()
