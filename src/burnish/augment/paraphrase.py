"""Paraphrase: an instruction model says the same in other words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from burnish.augment.base import OpenRun, model_hash, reject
from burnish.augment.synonyms import keep_alike
from burnish.augment.vectors import Sentences
from burnish.data.augment_config import ParaphraseConfig
from burnish.data.augmenting import Source, Variant
from burnish.models.config import ModelConfig
from burnish.models.generate import GenerateConfig, generate
from burnish.models.load import Loaded, load

_QUOTES = "\"'“”‘’"


class Paraphrase:
    """A model is asked for other words; an answer that did not end, or that means something else, is left out.

    Args:
        name: Of the recipe's entry.
        config: Its settings.
        seed: Seed of the sampling.
    """

    def __init__(self, name: str, config: ParaphraseConfig, seed: int) -> None:
        self.name, self.config, self.seed = name, config, seed
        self.sentences = Sentences(config.similarity)

    def fingerprint(self) -> Any:
        """The models' hashes."""
        return [self.name, self.seed, model_hash(self.config.model), self.sentences.fingerprint()]

    def variants(self, rows: Sequence[Source]) -> list[list[Variant]]:
        """So many answers to each row as the recipe asks for, without those that stray."""
        made: list[list[Variant]] = [[] for _ in rows]
        prompts = [self._prompt(row.text) for row in rows]
        for _ in range(self.config.copies):
            settings = GenerateConfig(
                max_new_tokens=self.config.max_new_tokens,
                temperature=self.config.temperature,
                seed=rows[0].draw.randrange(2**31),  # the batch is drawn together, so is its seed
            )
            for some, answer in zip(made, generate(self._model, prompts, settings), strict=True):
                text = tidy(answer.text)
                if answer.stopped and text:
                    some.append(Variant(text, [{"by": "paraphrase"}]))
        return keep_alike(self.sentences, rows, made, self.config.min_similarity)

    @cached_property
    def _model(self) -> Loaded:
        loaded = load(ModelConfig(path=self.config.model), torch.float32, verify=False)
        if loaded.kind != "causal":
            fix = "name a model that follows instructions, such as SmolLM2-Instruct"
            raise reject("this model does not follow instructions", f"model: {self.config.model}", fix)
        return loaded

    def _prompt(self, text: str) -> list[int]:
        asked = self.config.instruction.replace("{text}", text)
        tokenizer = self._model.tokenizer
        if not tokenizer.chat_template:
            return list(tokenizer(asked, verbose=False)["input_ids"])
        turns = [{"role": "user", "content": asked}]
        rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return list(tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"])


def tidy(answer: str) -> str:
    """The first paragraph of an answer, without the quotes that a model likes to put around it."""
    first = next((part.strip() for part in answer.split("\n\n") if part.strip()), "")
    quoted = len(first) > 1 and first[0] in _QUOTES and first[-1] in _QUOTES
    return first[1:-1].strip() if quoted else first


def paraphrase(name: str, config: ParaphraseConfig, seed: int, open_run: OpenRun) -> Paraphrase:
    """Paraphrase by a model that the recipe names."""
    return Paraphrase(name, config, seed)
