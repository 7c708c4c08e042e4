"""Sentence vectors of any encoder or decoder, to tell how alike two texts are. Shapes: N texts, T tokens, D width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from burnish.augment.base import model_hash
from burnish.core.types import Batch
from burnish.models.classifier import POOLING
from burnish.models.config import ModelConfig
from burnish.models.forward import hidden_states, positions_of
from burnish.models.load import Loaded, load, pad_id

BATCH = 64
LONGEST = 256


class Sentences:
    """The vectors of an encoder, which is loaded when it is first asked.

    Args:
        path: The model.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._loaded: Loaded | None = None

    def fingerprint(self) -> object:
        """The model's hash."""
        return model_hash(self.path)

    @property
    def loaded(self) -> Loaded:
        """The model."""
        if self._loaded is None:
            self._loaded = load(ModelConfig(path=self.path), torch.float32, verify=False, headless=True)
        return self._loaded

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """[N, D] the mean of each text's hidden states, at length one, so that a product is a cosine."""
        loaded = self.loaded
        most = min(positions_of(loaded.model.config) or LONGEST, LONGEST)
        ids = [row or [pad_id(loaded.tokenizer)] for row in token_ids(loaded, texts, most)]
        found = torch.zeros(len(texts), loaded.model.config.get_text_config().hidden_size)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = padded([ids[i] for i in rows], pad_id(loaded.tokenizer))
            with torch.no_grad():
                found[rows] = POOLING["mean"](hidden_states(loaded.model, batch), batch).float()
        return torch.nn.functional.normalize(found, dim=-1)

    def alike(self, first: Sequence[str], second: Sequence[str]) -> list[float]:
        """The cosine of each text with its counterpart."""
        if not first:
            return []
        return (self.vectors(first) * self.vectors(second)).sum(-1).tolist()  # type: ignore[no-any-return]


def token_ids(loaded: Loaded, texts: Sequence[str], most: int) -> list[list[int]]:
    """Texts as a tokenizer frames them, cut at ``most`` tokens."""
    return list(loaded.tokenizer(list(texts), truncation=True, max_length=most, verbose=False)["input_ids"])


def padded(rows: Sequence[Sequence[int]], pad: int) -> Batch:
    """Rows of tokens as one batch, padded on the right."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(list(row))
        mask[i, : len(row)] = 1
    return Batch(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
