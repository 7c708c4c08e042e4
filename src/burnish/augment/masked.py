"""Masked-model substitution: a language model says what could stand where a word was masked. Shapes: N rows, T, V."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from burnish.augment.base import OpenRun, model_hash, replacement
from burnish.augment.vectors import padded
from burnish.augment.words import Words, chosen_count, may_replace
from burnish.data.augment_config import MaskedConfig
from burnish.data.augmenting import Source, Variant
from burnish.models.config import ModelConfig
from burnish.models.forward import positions_of
from burnish.models.load import pad_id
from burnish.models.masked import load_masked

BATCH = 32
LOOKED_AT = 100


class Masked:
    """One word after the other is masked in all rows, and drawn anew from what the model finds likely there.

    The model sees the words that were replaced before. Of its likeliest tokens those stay that are whole words and pass
    the guards of synonyms; one of the first ``top_k`` is drawn by their probabilities.

    Args:
        name: Of the recipe's entry.
        config: Its settings.
        seed: Seed of what it draws.
    """

    def __init__(self, name: str, config: MaskedConfig, seed: int) -> None:
        self.name, self.config, self.seed = name, config, seed

    def fingerprint(self) -> Any:
        """The model's hash."""
        return [self.name, self.seed, model_hash(self.config.model)]

    def variants(self, rows: Sequence[Source]) -> list[list[Variant]]:
        """So many copies of each row as the recipe asks for."""
        made: list[list[Variant]] = [[] for _ in rows]
        for _ in range(self.config.copies):
            for place, variant in enumerate(self._copy(rows)):
                if variant is not None:
                    made[place].append(variant)
        return made

    @cached_property
    def _model(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        return load_masked(ModelConfig(path=self.config.model))

    def _copy(self, rows: Sequence[Source]) -> list[Variant | None]:
        texts = [Words.of(row.text) for row in rows]
        plans = []
        for row, words in zip(rows, texts, strict=True):
            free = words.telling()
            plans.append(row.draw.sample(free, min(len(free), chosen_count(len(words), self.config.rate))))
        changes: list[list[dict[str, Any]]] = [[] for _ in rows]
        for turn in range(max((len(plan) for plan in plans), default=0)):
            here = [i for i, plan in enumerate(plans) if turn < len(plan)]
            for start in range(0, len(here), BATCH):
                some = here[start : start + BATCH]
                found = self._likely([(texts[i], plans[i][turn]) for i in some])
                for i, likely in zip(some, found, strict=True):
                    change = self._put(texts[i], plans[i][turn], likely, rows[i])
                    changes[i] += [change] if change else []
        return [Variant(str(w), c) if c else None for w, c in zip(texts, changes, strict=True)]

    def _put(self, words: Words, place: int, likely: list[tuple[str, float]], row: Source) -> dict[str, Any] | None:
        old = words.core(place)
        fit = [(word, p) for word, p in likely if may_replace(old, word)][: self.config.top_k]
        if not fit:
            return None
        word, p = row.draw.choices(fit, weights=[p for _, p in fit])[0]
        return replacement(place, old, words.put(place, word), probability=round(p, 5))

    def _likely(self, masked: Sequence[tuple[Words, int]]) -> list[list[tuple[str, float]]]:
        """For each text with one place masked, the likeliest words there with their probabilities."""
        model, tokenizer = self._model
        texts = []
        for words, place in masked:
            kept = words.words[place]
            words.words[place] = kept.replace(words.core(place), str(tokenizer.mask_token), 1)
            texts.append(str(words))
            words.words[place] = kept
        most = positions_of(model.config) or 512
        ids = tokenizer(texts, truncation=True, max_length=most, verbose=False)["input_ids"]
        batch = padded(ids, pad_id(tokenizer))
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        found: list[list[tuple[str, float]]] = []
        for i, row in enumerate(ids):
            places = [t for t, token in enumerate(row) if token == tokenizer.mask_token_id]
            if not places:  # cut off with the end of a long text
                found.append([])
                continue
            top = logits[i, places[0]].float().softmax(-1).topk(min(LOOKED_AT, logits.shape[-1]))
            tokens = tokenizer.convert_ids_to_tokens(top.indices.tolist())
            words_there = [(_word(t), p) for t, p in zip(tokens, top.values.tolist(), strict=True)]
            found.append([(word, p) for word, p in words_there if word])
        return found


def _word(token: str) -> str:
    """The word that a token is; empty for a part of one."""
    return "" if token.startswith("##") else token.lstrip("Ġ▁").lower()


def masked(name: str, config: MaskedConfig, seed: int, open_run: OpenRun) -> Masked:
    """Substitution by a masked language model, as in BAE's replacement (Garg and Ramakrishnan, 2020, section 3)."""
    return Masked(name, config, seed)
