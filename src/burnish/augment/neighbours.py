"""Words that a model keeps close to each other: neighbours in its input embeddings. Shapes: V words, D width."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from burnish.augment.base import reject
from burnish.augment.words import may_replace
from burnish.models.load import Loaded

LOOKED_AT = 60
"""So many of the nearest words are held against the guards."""
_LETTERS = re.compile(r"^[a-z]{3,}$")
_STARTS = ("Ġ", "▁")
"""What marks the beginning of a word in byte-level BPE and in SentencePiece; WordPiece marks what is none, with ##."""


class Neighbours:
    """The whole words of a model's vocabulary, by the cosine of their input embeddings.

    The mean of all embeddings is taken off first: it says how frequent a token is rather than what it means (Mu and
    Viswanath, 2018).

    Args:
        loaded: The model.
        where: The setting that names it, for refusals.
    """

    def __init__(self, loaded: Loaded, where: str = "model") -> None:
        self.words, self.ids = whole_words(loaded)
        if len(self.words) < 2:
            raise reject(
                "the vocabulary of this model has no whole words to be neighbours",
                f"{where}: {loaded.path}",
                "name a model with a vocabulary of words, such as a sentence encoder",
            )
        weight = loaded.model.get_input_embeddings().weight.detach().float()
        chosen = weight[torch.tensor(self.ids)]
        self.matrix_VD = torch.nn.functional.normalize(chosen - chosen.mean(0), dim=-1)
        self.place = {word: i for i, word in enumerate(self.words)}
        self._known: dict[tuple[str, float], list[tuple[str, float]]] = {}

    def of(self, word: str, min_cosine: float) -> list[tuple[str, float]]:
        """Words that may take the place of this one, the nearest first, with their cosine; none if it is unknown."""
        key = (word.casefold(), min_cosine)
        if key not in self._known:
            self._known[key] = self._find(*key)
        return self._known[key]

    def _find(self, word: str, min_cosine: float) -> list[tuple[str, float]]:
        place = self.place.get(word)
        if place is None:
            return []
        near = (self.matrix_VD @ self.matrix_VD[place]).topk(min(LOOKED_AT, len(self.words)))
        found = zip(near.indices.tolist(), near.values.tolist(), strict=True)
        return [
            (self.words[i], round(cosine, 4))
            for i, cosine in found
            if cosine >= min_cosine and may_replace(word, self.words[i])
        ]


def whole_words(loaded: Loaded) -> tuple[list[str], list[int]]:
    """The tokens that are words by themselves, in small letters, with their ids, in the order of the ids."""
    vocabulary = sorted(loaded.tokenizer.get_vocab().items(), key=lambda item: item[1])
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    mark = next((m for m in _STARTS if sum(t.startswith(m) for t, _ in vocabulary) > len(vocabulary) // 50), "")
    found = [(t[len(mark) :], i) for t, i in vocabulary if t.startswith(mark) and i < rows]
    kept = [(word, i) for word, i in found if _LETTERS.match(word)]
    return [word for word, _ in kept], [i for _, i in kept]


def nearest_of(neighbours: Neighbours, min_cosine: float, draw: Any) -> Callable[[str], dict[str, Any] | None]:
    """A function that draws one neighbour of a word, likelier the nearer it is; None where there is none."""

    def choose(word: str) -> dict[str, Any] | None:
        near = neighbours.of(word, min_cosine)
        if not near:
            return None
        (new, cosine) = draw.choices(near, weights=weights([c for _, c in near]))[0]
        return {"to": new, "cosine": cosine}

    return choose


def weights(cosines: Sequence[float]) -> list[float]:
    """How likely each neighbour is drawn: in proportion to the fourth power of its cosine, so that near ones lead."""
    return [max(c, 1e-3) ** 4 for c in cosines]


def embedding_of(loaded: Loaded) -> Tensor:
    """[V, D] the input embeddings of a model."""
    weight: Tensor = loaded.model.get_input_embeddings().weight.detach()
    return weight
