"""Rows, models and methods that the tests of augmentation share."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from burnish.augment.build import methods_of
from burnish.core.config import build
from burnish.data.augment_config import AugmentEntry
from burnish.data.augmenting import Method, Source
from burnish.data.config import DataConfig
from burnish.data.labelled import Classes
from burnish.data.prepare import Prepared, prepare
from tests.support.recipes import write_rows
from tests.support.tiny import tiny_tokenizer

WORDS = ["film", "movie", "plot", "story", "actor", "scene", "music", "the", "was", "good", "bad", "not"]


def no_run(path: str) -> NoReturn:
    """These tests open no runs."""
    raise AssertionError(path)


def method(entry: dict[str, Any], seed: int = 0) -> Method:
    """The method of one entry."""
    config: Any = TypeAdapter(AugmentEntry).validate_python(entry)
    return methods_of([config], seed, no_run)[0]


def source(text: str, label: str = "a", seed: int = 0) -> Source:
    """A row as a method sees it."""
    return Source(text, label, random.Random(seed))


def augmented(folder: Path, rows: list[dict[str, Any]], entries: Any, *, seed: int = 0, **settings: Any) -> Prepared:
    """A classification's rows, prepared with new ones."""
    path = folder / "rows.jsonl"
    if not path.exists():  # a file that was written to is refused when its rows are read again
        write_rows(path, rows)
    held = {name: settings.pop(name) for name in ("chunk", "in_memory") if name in settings}
    values = {"train": str(path), "split": {"validation": 6, "test": 6}, "augment": entries, **settings}
    config = build(DataConfig, values)
    methods = methods_of(config.augment, seed, no_run)
    return prepare(config, tiny_tokenizer(), "causal", seed, classes=Classes(), augment=methods, **held)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of ``WORDS``, framed as BERT does."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordPiece({w: i for i, w in enumerate([*specials, *WORDS])}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{f"{k}_token": v for k, v in names.items()})


def save_masked(folder: Path) -> Path:
    """A tiny masked language model over ``WORDS``."""
    config = BertConfig(
        vocab_size=5 + len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, pad_token_id=0,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder
