"""Loading from folders, and everything that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel
from transformers.utils import logging

from burnish.core.errors import UserError
from burnish.core.files import sha256
from burnish.models import fetch
from burnish.models.config import ModelConfig
from burnish.models.load import load, load_model_config, load_tokenizer, pad_id
from tests.models.architectures import build
from tests.support.tiny import tiny_tokenizer


def save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(("name", "kind"), [("llama", "causal"), ("gemma2", "causal"), ("t5", "seq2seq")])
def test_a_folder_comes_back_as_it_was_saved(tmp_path: Path, name: str, kind: str) -> None:
    model = build(name)
    folder = save(model, tmp_path / name)
    loaded = load(ModelConfig(path=str(folder)), torch.float32)
    assert loaded.kind == kind
    assert not loaded.model.training
    assert loaded.path == str(folder)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value), key
    assert loaded.origin["sha256"] == sha256(folder / "model.safetensors")
    assert loaded.origin["model_type"] == model.config.model_type
    assert loaded.origin["parameters"] == sum(p.numel() for p in model.parameters())
    assert loaded.origin["chat_template"] == "tokenizer"
    json.dumps(loaded.origin)
    assert load(ModelConfig(path=str(folder)), torch.bfloat16).model.dtype == torch.bfloat16


def test_the_model_saved_again_names_no_attention_of_ours(tmp_path: Path) -> None:
    loaded = load(ModelConfig(path=str(save(build("llama"), tmp_path / "a"))), torch.float32)
    assert loaded.origin["packing"] == "segments"
    loaded.model.save_pretrained(tmp_path / "b")
    assert "burnish" not in (tmp_path / "b" / "config.json").read_text()


def test_parts_are_loaded_alone(tmp_path: Path) -> None:
    folder = save(build("llama"), tmp_path / "m")
    (folder / "model.safetensors").unlink()
    config = ModelConfig(path=str(folder))
    assert load_tokenizer(config).get_vocab() == tiny_tokenizer().get_vocab()
    assert load_model_config(config).model_type == "llama"
    with pytest.raises(UserError, match="no weights"):
        load(config, torch.float32)


def test_a_chat_template_of_the_recipe(tmp_path: Path) -> None:
    folder = save(build("llama"), tmp_path / "m")
    (tmp_path / "own.jinja").write_text("{{ messages[0]['content'] }}!")
    tokenizer = load_tokenizer(ModelConfig(path=str(folder), chat_template="own.jinja"), tmp_path)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"
    with pytest.raises(UserError, match="does not exist"):
        load_tokenizer(ModelConfig(path=str(folder), chat_template="other.jinja"), tmp_path)


def test_pickled_weights_need_a_word_in_the_recipe(tmp_path: Path) -> None:
    model = build("llama")
    folder = save(model, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="allow_pickle: true"):
        load(ModelConfig(path=str(folder)), torch.float32)
    loaded = load(ModelConfig(path=str(folder), allow_pickle=True), torch.float32)
    assert torch.equal(loaded.model.lm_head.weight, model.lm_head.weight)


def test_a_pickle_that_runs_code_is_not_run_even_if_allowed(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    folder = save(build("llama"), tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Attack()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError):
        load(ModelConfig(path=str(folder), allow_pickle=True), torch.float32)
    assert not (tmp_path / "ran").exists()


def test_code_of_the_model_is_not_run(tmp_path: Path) -> None:
    folder = save(build("llama"), tmp_path / "m")
    rewrite(folder / "config.json", model_type="odd", auto_map={"AutoConfig": "code.Config"})
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for call in (load_model_config, load_tokenizer, lambda c: load(c, torch.float32)):
        with pytest.raises(UserError, match="trust_remote_code: true"):
            call(ModelConfig(path=str(folder)))
    assert not (tmp_path / "ran").exists()


def test_a_known_type_with_code_beside_it_uses_the_librarys_class(tmp_path: Path) -> None:
    folder = save(build("llama"), tmp_path / "m")
    rewrite(folder / "config.json", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert type(load(ModelConfig(path=str(folder)), torch.float32).model).__name__ == "LlamaForCausalLM"
    assert not (tmp_path / "ran").exists()


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    """A backbone saved without its untied head would get a random one."""
    folder = tmp_path / "m"
    save(build("llama", tie_word_embeddings=False).model, folder)
    with pytest.raises(UserError, match=r"would be random: `lm_head\.weight`"):
        load(ModelConfig(path=str(folder)), torch.float32)


def test_an_encoder_is_no_causal_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    folder = save(BertForMaskedLM(BertConfig(**sizes, num_attention_heads=4)), tmp_path / "m")
    with pytest.raises(UserError):
        load(ModelConfig(path=str(folder)), torch.float32)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "cannot be read"),
        ("config.json", '{"model_type": "no_such_type"}', "configuration cannot be loaded"),
        ("model.safetensors", "no tensors here", "model cannot be loaded"),
        ("tokenizer.json", "{", "tokenizer cannot be loaded"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, file: str, content: str, message: str) -> None:
    folder = save(build("llama"), tmp_path / "m")
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load(ModelConfig(path=str(folder)), torch.float32)
    assert str(folder) in str(caught.value)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = save(build("llama"), tmp_path / "m")
    rewrite(folder / "config.json", intermediate_size=96)
    with pytest.raises(UserError, match="model cannot be loaded"):
        load(ModelConfig(path=str(folder)), torch.float32)


def test_a_hub_name_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch, "_reachable", lambda endpoint: False)
    with pytest.raises(UserError) as caught:
        load(ModelConfig(path="some-organisation/some-model", revision="v1"), torch.float32)
    text = str(caught.value)
    assert "`some-organisation/some-model` at `v1`" in text
    assert "cannot be reached" in text
    assert str(tmp_path) in text
    assert "hf download some-organisation/some-model" in text


def test_a_hub_name_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot as the hub's client lays it out is found offline; its commit is the origin."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    root = tmp_path / "models--some-organisation--some-model"
    save(build("llama"), root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    monkeypatch.setattr(fetch, "_reachable", lambda endpoint: False)
    cached = fetch.snapshot_download
    monkeypatch.setattr(fetch, "snapshot_download", lambda *a, **k: cached(*a, **k, cache_dir=tmp_path))
    loaded = load(ModelConfig(path="some-organisation/some-model"), torch.float32)
    assert loaded.path == "some-organisation/some-model"
    assert loaded.origin["commit"] == commit


def test_nothing_is_printed_and_the_settings_come_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = save(build("llama"), tmp_path / "m")
    capfd.readouterr()
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load(ModelConfig(path=str(folder)), torch.float32)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_padding_falls_back_to_the_end_token_and_is_not_written_into_the_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    assert pad_id(tokenizer) == tokenizer.pad_token_id
    tokenizer.pad_token = None
    assert pad_id(tokenizer) == tokenizer.eos_token_id
    assert tokenizer.pad_token is None


def test_large_weights_are_told_apart_by_their_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_HASH_LIMIT", 10)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"a" * (3 << 20))
    first = fetch.fingerprint(tmp_path)
    file.write_bytes(b"a" * ((3 << 20) - 1) + b"b")
    second = fetch.fingerprint(tmp_path)
    assert first.keys() == {"fingerprint", "bytes"}
    assert first["fingerprint"] != second["fingerprint"]
