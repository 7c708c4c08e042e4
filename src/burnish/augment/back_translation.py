"""Back-translation: to another language and back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from burnish.augment.base import OpenRun, model_hash, reject
from burnish.data.augment_config import BackTranslationConfig
from burnish.data.augmenting import Source, Variant
from burnish.models.config import ModelConfig
from burnish.models.generate import GenerateConfig, generate
from burnish.models.load import Loaded, load


class BackTranslation:
    """A row is translated by one model and translated back by another (Sennrich, Haddow and Birch, 2016).

    Args:
        name: Of the recipe's entry.
        config: Its settings.
        seed: Seed of the sampling.
    """

    def __init__(self, name: str, config: BackTranslationConfig, seed: int) -> None:
        self.name, self.config, self.seed = name, config, seed

    def fingerprint(self) -> Any:
        """The models' hashes."""
        return [self.name, self.seed, model_hash(self.config.forward), model_hash(self.config.backward)]

    def variants(self, rows: Sequence[Source]) -> list[list[Variant]]:
        """So many translations of each row as the recipe asks for; one that did not end by itself is left out."""
        made: list[list[Variant]] = [[] for _ in rows]
        for number in range(self.config.copies):
            for place, variant in enumerate(self._copy(rows, number)):
                if variant is not None:
                    made[place].append(variant)
        return made

    @cached_property
    def _models(self) -> tuple[Loaded, Loaded]:
        return _translator(self.config.forward, "forward"), _translator(self.config.backward, "backward")

    def _copy(self, rows: Sequence[Source], number: int) -> list[Variant | None]:
        forward, backward = self._models
        settings = GenerateConfig(
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            seed=rows[0].draw.randrange(2**31) if rows else number,  # the batch is drawn together, so is its seed
        )
        there = translated(forward, [self.config.forward_prefix + row.text for row in rows], settings)
        found = [(i, text) for i, text in enumerate(there) if text]
        back = translated(backward, [self.config.backward_prefix + text for _, text in found], settings)
        made: list[Variant | None] = [None] * len(rows)
        for (i, between), after in zip(found, back, strict=True):
            made[i] = Variant(after, [{"by": "back-translation", "between": between}]) if after else None
        return made


def back_translation(name: str, config: BackTranslationConfig, seed: int, open_run: OpenRun) -> BackTranslation:
    """Back-translation by two models that the recipe names."""
    return BackTranslation(name, config, seed)


def translated(loaded: Loaded, texts: Sequence[str], settings: GenerateConfig) -> list[str | None]:
    """What a model makes of each text; None where it did not end by itself."""
    prompts = [list(loaded.tokenizer(text, verbose=False)["input_ids"]) for text in texts]
    answers = generate(loaded, prompts, settings)
    return [answer.text.strip() if answer.stopped else None for answer in answers]


def _translator(path: str, where: str) -> Loaded:
    loaded = load(ModelConfig(path=path), torch.float32, verify=False)
    if loaded.kind != "seq2seq":
        raise reject(
            f"`{loaded.origin['model_type']}` is no encoder-decoder, and translates nothing",
            f"{where}: {path}",
            "name a model for translation, such as Marian or T5",
        )
    return loaded
