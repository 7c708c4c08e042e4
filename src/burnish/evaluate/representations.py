"""One vector a row from the model's own hidden states, and clusters of them named by their words.

Shapes: N rows, D width. [N, D] fp32 is kept while clusters are made: 1.5 kB a row at width 384.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from burnish.core.types import Batch
from burnish.data.table import TokenTable
from burnish.evaluate.loss import View
from burnish.evaluate.traits import STOP_WORDS, words
from burnish.models.classifier import pool
from burnish.models.forward import hidden_states
from burnish.models.modes import in_evaluation

MOST_CLUSTERS = 12
ROWS_PER_CLUSTER = 40
NAMED_BY = 4
"""Words that name a cluster."""

Vectors = NDArray[np.float32]


def representations(view: View, table: TokenTable) -> Vectors:
    """[N, D] what the head reads of each row; of a language model its state at the last token of the prompt.

    Args:
        view: The model; an encoder-decoder has no one place to look at and gives [N, 0].
        table: The rows.
    """
    model, head = view.loaded.model, view.loaded.classifier
    if view.loaded.kind == "seq2seq":
        return np.zeros((len(table), 0), dtype=np.float32)
    vectors: list[Vectors | None] = [None] * len(table)
    with in_evaluation(model):
        for rows in view.batches(table):
            batch = view.collate(table, rows)
            with torch.no_grad(), view.autocast():  # type: ignore[attr-defined]
                hidden = hidden_states(model, batch)
                pooled = pool(model, hidden, batch, head.pooling) if head else _at_prompts(hidden, batch, table, rows)
            for row, vector in zip(rows, pooled.float().cpu().numpy(), strict=True):
                vectors[row] = vector
    return np.stack([v for v in vectors if v is not None]) if vectors else np.zeros((0, 0), dtype=np.float32)


def _at_prompts(hidden: torch.Tensor, batch: Batch, table: TokenTable, rows: list[int]) -> torch.Tensor:
    if "segment_lengths" in batch:
        lengths = torch.tensor(batch["segment_lengths"])
        starts = lengths.cumsum(0) - lengths
    else:
        starts = torch.arange(len(rows)) * hidden.shape[1]
    ends = torch.tensor([max(1, min(int(table.prompt_lengths[r]), len(table.row(r)[0]))) - 1 for r in rows])
    return hidden.flatten(0, 1)[(starts + ends).to(hidden.device)]


def clusters(vectors: Vectors, texts: Sequence[str], seed: int) -> list[str]:
    """The cluster of each row, named by the words that are most its own.

    k-means on the vectors at length 1, so that their angles decide; a cluster for every 40 rows, 12 at most. A cluster
    is named by the words with the largest ``count_in * log(rows * share_in / rows_with)``: many of its rows have them,
    and few others.

    Args:
        vectors: [N, D].
        texts: [N] the same rows.
        seed: Seed of the first centres.
    """
    count = min(MOST_CLUSTERS, len(texts) // ROWS_PER_CLUSTER)
    if count < 2 or not vectors.shape[1]:
        return ["all rows"] * len(texts)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    places = MiniBatchKMeans(count, random_state=seed, n_init=5, batch_size=1024).fit_predict(unit)
    names = _names(places, texts)
    return [names[p] for p in places]


def _names(places: NDArray[np.int64], texts: Sequence[str]) -> dict[int, str]:
    common = frozenset().union(*STOP_WORDS.values())
    inside: dict[int, Counter[str]] = {int(p): Counter() for p in np.unique(places)}
    overall: Counter[str] = Counter()
    for place, text in zip(places, texts, strict=True):
        own = {w for w in words(text) if len(w) > 1 and w not in common}
        inside[int(place)].update(own)
        overall.update(own)
    sizes = Counter(int(p) for p in places)
    names = {}
    for number, (place, counts) in enumerate(sorted(inside.items()), 1):
        share = sizes[place] / len(texts)
        score = {w: c * np.log(c / (overall[w] * share)) for w, c in counts.items() if c > 1}
        top = sorted(score, key=lambda w: (-score[w], w))[:NAMED_BY]
        names[place] = f"cluster {number}: {', '.join(top)}" if top else f"cluster {number}"
    return names
