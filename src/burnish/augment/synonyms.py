"""Synonyms: words are replaced by neighbours in an embedding space, or by WordNet's."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from burnish.augment.base import OpenRun, reject, replacement
from burnish.augment.neighbours import Neighbours, nearest_of
from burnish.augment.vectors import Sentences
from burnish.augment.words import Words, chosen_count, may_replace
from burnish.data.augment_config import SynonymsConfig
from burnish.data.augmenting import Source, Variant

Chooser = Callable[[str], dict[str, Any] | None]
"""From a word to what takes its place, with the reason; None where nothing does."""


class Synonyms:
    """A share of the telling words of a row is replaced; then the whole row is held against its source.

    An embedding space holds opposites close together (`hot` and `cold`), and their parts of speech are told by endings
    only. So words that a label hangs on are neither replaced nor put in, and a row whose sentence vector moves too far
    is dropped.

    Args:
        name: Of the recipe's entry.
        config: Its settings.
        seed: Seed of what it draws.
    """

    def __init__(self, name: str, config: SynonymsConfig, seed: int) -> None:
        self.name, self.config, self.seed = name, config, seed
        self.sentences = Sentences(config.model) if config.model else None
        if config.source == "wordnet":
            wordnet()  # refused now, not after the data was read

    def fingerprint(self) -> Any:
        """The model's hash."""
        return [self.name, self.seed, self.sentences.fingerprint() if self.sentences else "wordnet"]

    def variants(self, rows: Sequence[Source]) -> list[list[Variant]]:
        """So many copies of each row as the recipe asks for, without those that stray."""
        made = [[v for _ in range(self.config.copies) if (v := self._one(row)) is not None] for row in rows]
        if self.sentences is None:
            return made
        return keep_alike(self.sentences, rows, made, self.config.min_similarity)

    @cached_property
    def _neighbours(self) -> Neighbours:
        assert self.sentences is not None  # the configuration asks for a model
        return Neighbours(self.sentences.loaded)

    def _chooser(self, draw: random.Random) -> Chooser:
        if self.config.source == "wordnet":
            return lambda word: _from_wordnet(word, draw)
        return nearest_of(self._neighbours, self.config.min_cosine, draw)

    def _one(self, row: Source) -> Variant | None:
        words = Words.of(row.text)
        choose, wanted = self._chooser(row.draw), chosen_count(len(words), self.config.rate)
        changes: list[dict[str, Any]] = []
        free = words.telling()
        for place in row.draw.sample(free, len(free)):
            if len(changes) == wanted:
                break
            old = words.core(place)
            found = choose(old)
            if found is not None:
                new = words.put(place, found.pop("to"))
                changes.append(replacement(place, old, new, **found))
        return Variant(str(words), sorted(changes, key=lambda c: c["place"])) if changes else None


def synonyms(name: str, config: SynonymsConfig, seed: int, open_run: OpenRun) -> Synonyms:
    """Synonym replacement (Wei and Zou, 2019, section 2), from an embedding space or WordNet."""
    return Synonyms(name, config, seed)


def keep_alike(
    sentences: Sentences, rows: Sequence[Source], made: Sequence[Sequence[Variant]], least: float
) -> list[list[Variant]]:
    """The variants whose sentence vector has at least the cosine ``least`` with their source's; it is noted in each."""
    pairs = [(i, row.text, variant) for i, (row, some) in enumerate(zip(rows, made, strict=True)) for variant in some]
    cosines = sentences.alike([text for _, text, _ in pairs], [variant.text for _, _, variant in pairs])
    kept: list[list[Variant]] = [[] for _ in rows]
    for (i, _, variant), cosine in zip(pairs, cosines, strict=True):
        if cosine >= least:
            kept[i].append(Variant(variant.text, [*variant.changes, {"similarity": round(cosine, 4)}]))
    return kept


def wordnet() -> Any:
    """WordNet, as `nltk` reads it.

    Raises:
        UserError: The library or its data is not there.
    """
    fix = "install `nltk` and fetch its data with `python -m nltk.downloader wordnet`, or use `source: embedding`"
    try:
        from nltk.corpus import wordnet as corpus

        corpus.ensure_loaded()
    except ImportError:
        raise reject("WordNet is read through `nltk`, which is not installed", "source", fix) from None
    except LookupError:
        raise reject("the WordNet data of `nltk` is not on this machine", "source", fix) from None
    return corpus


def _from_wordnet(word: str, draw: random.Random) -> dict[str, Any] | None:
    lemmas = {
        lemma.name().lower()
        for synset in wordnet().synsets(word.lower())
        for lemma in synset.lemmas()
        if "_" not in lemma.name()
    }
    fit = sorted(new for new in lemmas if may_replace(word, new))
    return {"to": draw.choice(fit), "by": "wordnet"} if fit else None
