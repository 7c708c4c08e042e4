"""What a recipe says under `data.augment`: kinds of new training rows, one configuration each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from burnish.core.config import Config

Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Cosine = Annotated[float, Field(ge=-1.0, le=1.0)]


class AugmentConfig(Config):
    """What all kinds have in common. New rows are made of training rows only, after the split."""

    share: Rate = 1.0
    """Share of the training rows that new rows are made of; which ones is drawn by the seed."""
    copies: int = Field(1, ge=1, le=16)
    """New rows for each of them; those that change nothing, or that there are already, are dropped and counted."""
    seed: int | None = Field(None, ge=0)
    """Seed of what is drawn; the run's seed if absent."""
    column: str | None = None
    """Column whose text is changed, where a template puts it into the prompt. Of a classification the whole text."""


class DeleteConfig(AugmentConfig):
    """Leave words out (Wei and Zou 2019, random deletion); never negations or words of feeling."""

    kind: Literal["delete"] = "delete"
    """The name of the kind."""
    rate: Rate = 0.1
    """Chance of a word to be left out."""


class SwapConfig(AugmentConfig):
    """Let words change places (Wei and Zou 2019, random swap); negations and words of feeling stay where they are."""

    kind: Literal["swap"] = "swap"
    """The name of the kind."""
    rate: Rate = 0.1
    """Share of the words that are swapped, in pairs; one pair at least."""


class SpellingConfig(AugmentConfig):
    """Slips of the finger: a neighbour on the keyboard, a letter twice, one left out, or two swapped."""

    kind: Literal["spelling"] = "spelling"
    """The name of the kind."""
    rate: Rate = 0.1
    """Share of the words that get one slip; one word at least."""


class InsertConfig(AugmentConfig):
    """Put a neighbour of one of the row's words somewhere into it (Wei and Zou 2019, random insertion)."""

    kind: Literal["insert"] = "insert"
    """The name of the kind."""
    model: str = Field(min_length=1)
    """Model whose input embeddings say which words are alike."""
    rate: Rate = 0.1
    """Words that are put in, as a share of the row's words; one at least."""
    min_cosine: Cosine = 0.45
    """Words that are less alike are no neighbours."""


class SynonymsConfig(AugmentConfig):
    """Replace words by others that mean about the same, of the same coarse part of speech.

    Negations, words of feeling, names, numbers and links stay as they are, and none is put in.
    """

    kind: Literal["synonyms"] = "synonyms"
    """The name of the kind."""
    source: Literal["embedding", "wordnet"] = "embedding"
    """Where synonyms come from: neighbours in a model's input embeddings, or WordNet through `nltk`."""
    model: str | None = None
    """Model whose input embeddings, and whose sentence vectors, say what is alike; needed for `embedding`."""
    rate: Rate = 0.15
    """Share of the words that are replaced; one word at least."""
    min_cosine: Cosine = 0.45
    """Words that are less alike are no neighbours."""
    min_similarity: Cosine = 0.8
    """A new row whose sentence vector is less like its source's is dropped."""

    @model_validator(mode="after")
    def _space(self) -> SynonymsConfig:
        if self.source == "embedding" and not self.model:
            raise ValueError("synonyms from an embedding space need a `model`, such as a sentence encoder")
        return self


class MaskedConfig(AugmentConfig):
    """Mask words and let a masked language model say what could stand there (as in Garg and Ramakrishnan 2020)."""

    kind: Literal["masked"] = "masked"
    """The name of the kind."""
    model: str = Field(min_length=1)
    """A masked language model with its head, such as BERT or RoBERTa."""
    rate: Rate = 0.15
    """Share of the words that are replaced; one word at least."""
    top_k: int = Field(10, ge=1)
    """Draw from so many of the likeliest words that pass the guards."""


class BackTranslationConfig(AugmentConfig):
    """Translate to another language and back (Sennrich and others 2016), with any two models for translation."""

    kind: Literal["back_translation"] = "back_translation"
    """The name of the kind."""
    forward: str = Field(min_length=1)
    """Model that translates into the other language."""
    backward: str = Field(min_length=1)
    """Model that translates back."""
    forward_prefix: str = ""
    """Text before every input of the first model, such as `"translate English to German: "`."""
    backward_prefix: str = ""
    """Text before every input of the second model."""
    temperature: float = Field(0.7, ge=0.0)
    """0 takes the likeliest words, so that several copies are the same."""
    max_new_tokens: int = Field(128, ge=1)
    """Longest translation; one that does not end by itself is dropped."""


class ParaphraseConfig(AugmentConfig):
    """Let an instruction model say the same in other words; what differs too much in meaning is dropped."""

    kind: Literal["paraphrase"] = "paraphrase"
    """The name of the kind."""
    model: str = Field(min_length=1)
    """A model that follows instructions."""
    instruction: str = "Rewrite this message in other words. Keep its meaning and its tone.\n\n{text}"
    """What it is asked; `{text}` is the row's text."""
    temperature: float = Field(0.7, ge=0.0)
    """0 takes the likeliest words, so that several copies are the same."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest answer; one that does not end by itself is dropped."""
    similarity: str = Field(min_length=1)
    """Encoder whose sentence vectors are compared."""
    min_similarity: Cosine = 0.7
    """A new row whose sentence vector is less like its source's is dropped."""

    @model_validator(mode="after")
    def _asks(self) -> ParaphraseConfig:
        if "{text}" not in self.instruction:
            raise ValueError("the instruction must contain `{text}`")
        return self


class AdversarialConfig(AugmentConfig):
    """Replace the words that make a trained classifier change its mind, where a reader would not.

    Places and words are found by the classifier's gradients (HotFlip: Ebrahimi and others 2018), the guards are those
    of synonyms, and the meaning is held by sentence vectors (TextFooler: Jin and others 2020).
    """

    kind: Literal["adversarial"] = "adversarial"
    """The name of the kind."""
    run: str = Field(min_length=1)
    """Run of a classification on the same classes: the model that is to be made steadier."""
    similarity: str = Field(min_length=1)
    """Encoder whose sentence vectors are compared."""
    max_changed: Rate = 0.3
    """Largest share of a row's words that are replaced; one word at least."""
    candidates: int = Field(12, ge=1)
    """So many neighbours of each word are considered."""
    min_cosine: Cosine = 0.4
    """Words that are less alike in the classifier's input embeddings are not considered."""
    min_similarity: Cosine = 0.8
    """A new row whose sentence vector is less like its source's is dropped."""


AugmentEntry = Annotated[
    DeleteConfig
    | SwapConfig
    | SpellingConfig
    | InsertConfig
    | SynonymsConfig
    | MaskedConfig
    | BackTranslationConfig
    | ParaphraseConfig
    | AdversarialConfig,
    Field(discriminator="kind"),
]

MODEL_FIELDS = ("model", "forward", "backward", "similarity", "run")
"""Settings that name a model or a run; a relative one starts at the folder of the recipe."""
