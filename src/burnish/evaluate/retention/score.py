"""What a model says of the retention set: every token of its texts, every choice of its questions, every layer.

Shapes: S predicted tokens of all texts, K tokens kept of each prediction, C positions of a chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from burnish.core.types import Batch
from burnish.evaluate.loss import View
from burnish.evaluate.retention.layers import LayerMeans, Vectors
from burnish.evaluate.retention.rows import RetentionRows
from burnish.evaluate.retention.stems import choice_losses
from burnish.models.classifier import pool
from burnish.models.forward import hidden_states
from burnish.models.head import Head, head_of
from burnish.models.modes import in_evaluation
from burnish.ops.coarse_kl import coarse_kl, top_tokens

KEPT_TOKENS = 64
"""Tokens that are kept of each prediction of the original: 512 bytes a token of text."""


@dataclass(frozen=True)
class Said:
    """What a model says.

    Attributes:
        losses: [S] negative log-likelihood of every predicted token of the texts, in nats.
        top_ids: [S, K] its most likely tokens there, the most likely first; of the original only.
        top_logs: [S, K] their log-probabilities; of the original only.
        kl: [S] KL from the original's predictions, at least (`ops.coarse_kl`); of a tuned model only.
        agrees: [S] whether its most likely token is the original's; of a tuned model only.
        choices: [A] negative log-likelihood of every choice of every question.
        vectors: By layer, [N, D] the mean hidden states of every text; under ``HEAD`` what a new head reads of it.
    """

    losses: NDArray[np.float64]
    top_ids: NDArray[np.int32] | None = None
    top_logs: NDArray[np.float32] | None = None
    kl: NDArray[np.float64] | None = None
    agrees: NDArray[np.bool_] | None = None
    choices: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    vectors: Mapping[int, Vectors] = field(default_factory=dict)

    def take(self, rows: list[int], places: NDArray[np.int64]) -> Said:
        """What was said of some of the texts; ``places`` are those of all."""
        tokens = np.concatenate([np.arange(places[r], places[r + 1]) for r in rows]) if rows else np.zeros(0, int)
        return Said(
            self.losses[tokens] if len(self.losses) else self.losses,
            self.top_ids[tokens] if self.top_ids is not None else None,
            self.top_logs[tokens] if self.top_logs is not None else None,
            vectors={layer: vectors[rows] for layer, vectors in self.vectors.items()},
        )


HEAD = -1
"""The place of what a new head reads among the layers."""


def listen(view: View, rows: RetentionRows, original: Said | None = None, *, layers: bool = True) -> Said:
    """Score a model on the retention set, without gradients, in evaluation mode and without drawing a number.

    Args:
        view: The model.
        rows: The retention set.
        original: What the original said of the same rows; without it this model is the original.
        layers: Whether the layers are looked at too.
    """
    means = LayerMeans(view.loaded.model, len(rows.texts)) if layers else None
    if view.loaded.classifier is not None:
        return _read_by_head(view, rows, means)
    parts: dict[str, list[tuple[Any, NDArray[Any]]]] = {}
    head, places = head_of(view.loaded.model), rows.places
    for chosen, batch, hidden in _passes(view, rows, means):
        tokens = np.concatenate([np.arange(places[row], places[row + 1]) for row in chosen])
        for name, values in _predictions(head, batch, hidden, original, tokens).items():
            parts.setdefault(name, []).append((tokens, values))
    found = {name: _scattered(pieces, int(places[-1])) for name, pieces in parts.items()}
    choices = choice_losses(view, rows.answers) if rows.answers is not None else np.zeros(0)
    return Said(**{"losses": np.zeros(0), **found}, choices=choices, vectors=means.found if means else {})


def _passes(view: View, rows: RetentionRows, means: LayerMeans | None) -> Iterator[tuple[list[int], Batch, Tensor]]:
    """The passes over the texts: which ones, their batch and their hidden states."""
    model = view.loaded.model
    with in_evaluation(model), means.watching() if means else nullcontext():
        for chosen in view.batches(rows.texts):
            batch = view.collate(rows.texts, chosen)
            if means:
                means.expect(chosen, batch)
            with torch.no_grad(), view.autocast():  # type: ignore[attr-defined]
                yield chosen, batch, hidden_states(model, batch)


def _read_by_head(view: View, rows: RetentionRows, means: LayerMeans | None) -> Said:
    """Of a model whose head is new: what the head reads of every text, and the layers' means."""
    head = view.loaded.classifier
    assert head is not None
    how = "mean" if head.pooling == "tokens" else head.pooling
    pieces = []
    for chosen, batch, hidden in _passes(view, rows, means):
        pieces.append((np.asarray(chosen), pool(view.loaded.model, hidden, batch, how).float().cpu().numpy()))
    vectors = dict(means.found) if means else {}
    return Said(np.zeros(0), vectors={**vectors, HEAD: _scattered(pieces, len(rows.texts))} if pieces else vectors)


def _predictions(
    head: Head, batch: Batch, hidden: Tensor, original: Said | None, places: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """What is kept of the predictions of one pass; logits exist for a chunk of its positions at a time."""
    labelled = batch["labels"] != -100
    hidden, wanted = hidden[labelled], batch["labels"][labelled]
    step = head.chunk_rows(hidden.device)
    chunks = []
    for start in range(0, len(wanted), step):
        part = slice(start, start + step)
        base = None if original is None else _of_original(original, places[part], hidden.device)
        said = of_chunk(head, hidden[part], wanted[part], base)
        chunks.append({name: values.cpu().numpy() for name, values in said.items()})
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]} if chunks else {}


def _of_original(original: Said, places: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
    assert original.top_ids is not None and original.top_logs is not None
    ids, logs = (torch.from_numpy(one[places]).to(device) for one in (original.top_ids, original.top_logs))
    return ids.long(), logs


def of_chunk(
    head: Head, hidden_CD: Tensor, labels_C: Tensor, base: tuple[Tensor, Tensor] | None = None
) -> dict[str, Tensor]:
    """What is kept of the predictions of a chunk, by the names of ``Said``.

    Args:
        head: The output projection.
        hidden_CD: Hidden states of its positions.
        labels_C: The tokens that come next.
        base: The original's most likely tokens and their log-probabilities; without them this model is the original.
    """
    logits_CV = head(hidden_CD).float()
    norm = logits_CV.logsumexp(-1, keepdim=True)
    losses = (norm - logits_CV.gather(1, labels_C[:, None]))[:, 0]
    found: dict[str, Tensor] = {"losses": losses.double()}
    if base is None:
        ids, logs = top_tokens(logits_CV, KEPT_TOKENS, norm)
        found |= {"top_ids": ids.int(), "top_logs": logs}
    else:
        ids, logs = base
        found |= {
            "kl": coarse_kl(logs, logits_CV.gather(1, ids) - norm),
            "agrees": logits_CV.argmax(-1) == ids[:, 0],
        }
    return found


def _scattered(pieces: list[tuple[NDArray[np.int64], NDArray[Any]]], count: int) -> NDArray[Any]:
    """The pieces of all passes, each at its place."""
    first = pieces[0][1]
    whole = np.zeros((count, *first.shape[1:]), dtype=first.dtype)
    for places, values in pieces:
        whole[places] = values
    return whole
