"""Random insertion: a neighbour of one of the row's words is put somewhere into it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from burnish.augment.base import Edits, OpenRun
from burnish.augment.neighbours import Neighbours, nearest_of
from burnish.augment.vectors import Sentences
from burnish.augment.words import Words, chosen_count
from burnish.data.augment_config import InsertConfig
from burnish.data.augmenting import Source


class Insert(Edits):
    """A neighbour of a random telling word comes to a random place, ``rate`` times (Wei and Zou, 2019, section 2).

    The paper takes synonyms from WordNet; neighbours in a model's input embeddings stand in for them here.
    """

    def __init__(self, name: str, config: InsertConfig, seed: int) -> None:
        super().__init__(name, config, seed, self._edit)
        self.sentences = Sentences(config.model)

    def fingerprint(self) -> Any:
        """The model's hash."""
        return [self.name, self.seed, self.sentences.fingerprint()]

    @cached_property
    def _neighbours(self) -> Neighbours:
        return Neighbours(self.sentences.loaded)

    def _edit(self, words: Words, row: Source, config: InsertConfig) -> list[dict[str, Any]]:
        choose = nearest_of(self._neighbours, config.min_cosine, row.draw)
        telling = [words.core(place) for place in words.telling()]
        changes: list[dict[str, Any]] = []
        wanted = chosen_count(len(words), config.rate)
        for word in row.draw.sample(telling, len(telling)):
            if len(changes) == wanted:
                break
            found = choose(word)
            if found is None:
                continue
            place = row.draw.randrange(len(words) + 1)
            words.insert(place, found["to"])
            changes.append({"place": place, "from": "", "like": word, **found})
        return changes


def insert(name: str, config: InsertConfig, seed: int, open_run: OpenRun) -> Insert:
    """Random insertion with neighbours from an embedding space."""
    return Insert(name, config, seed)
