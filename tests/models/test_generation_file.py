"""Generation settings in `transformers`' own file and back, followed by Burnish and by `transformers` alike."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from burnish.cli.main import call
from burnish.core.errors import UserError
from burnish.models.config import ModelConfig
from burnish.models.generate import GenerateConfig, generate
from burnish.models.generation_file import save_settings, stored_settings
from burnish.models.load import Loaded, load
from burnish.train.handover import settings_of
from tests.support.recipes import recipe, save_tiny

SETTINGS = (
    GenerateConfig(),
    GenerateConfig(max_new_tokens=7, min_new_tokens=3, no_repeat_ngram_size=2, repetition_penalty=1.3),
    GenerateConfig(temperature=0.7, top_p=0.9, top_k=40, seed=5, stop=("\n", "END")),
)


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    return load(ModelConfig(path=str(save_tiny(tmp_path / "model"))), torch.float32)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_round_trip_keeps_every_setting(tmp_path: Path, loaded: Loaded, settings: GenerateConfig) -> None:
    save_settings(tmp_path, loaded.model, settings)
    assert stored_settings(tmp_path) == settings
    theirs = GenerationConfig.from_pretrained(tmp_path)
    assert theirs.eos_token_id == loaded.model.generation_config.eos_token_id
    assert theirs.do_sample is (settings.temperature > 0)


def test_other_peoples_files_are_not_taken_over(tmp_path: Path) -> None:
    GenerationConfig(do_sample=True, temperature=0.6, max_new_tokens=9).save_pretrained(tmp_path)
    assert stored_settings(tmp_path) is None and stored_settings(tmp_path / "nowhere") is None


@pytest.mark.parametrize("text", ["{", '{"burnish": {}, "max_new_tokens": "many"}', '{"burnish": 3}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match="stored generation settings"):
        stored_settings(tmp_path)


def test_repeats_and_lengths_are_held(loaded: Loaded) -> None:
    """No pair of tokens twice among 24 new ones; a generation that would end at once goes on for three tokens."""
    prompts = [[5, 6, 7], [9, 10, 11, 12]]
    for one, prompt in zip(
        generate(loaded, prompts, GenerateConfig(max_new_tokens=24, no_repeat_ngram_size=2)), prompts, strict=True
    ):
        ids = [*prompt, *one.token_ids]
        pairs = list(pairwise(ids))
        assert len(set(pairs)) == len(pairs)
    head = loaded.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.weight.shape[0]))
    with torch.no_grad():
        head.bias[loaded.tokenizer.eos_token_id] = 1e4
    short, long = (generate(loaded, prompts, GenerateConfig(min_new_tokens=n)) for n in (0, 3))
    assert [len(one.token_ids) for one in short] == [1, 1] and [len(one.token_ids) for one in long] == [4, 4]


def test_a_run_stores_its_settings_and_everyone_follows_them(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Beside the adapter, in the merged model; `transformers` without a word says what `burnish generate` says."""
    wanted = {"max_new_tokens": 9, "no_repeat_ngram_size": 2, "min_new_tokens": 2}
    values = recipe(tmp_path, evaluate={"generate": wanted}, train={"max_steps": 2})
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    run, merged = str(tmp_path / "runs/run"), str(tmp_path / "merged")
    assert call(["run", str(tmp_path / "recipe.yaml")]) == 0
    assert call(["merge", run, merged]) == 0
    assert settings_of(run) == settings_of(merged) == stored_settings(tmp_path / "runs/run/final")
    assert settings_of(run) == GenerateConfig(**wanted)
    capsys.readouterr()
    answers = []
    for target in (run, merged):
        assert call(["generate", target, "one two three", "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1] and 2 <= answers[0]["tokens"] <= 9
    model = AutoModelForCausalLM.from_pretrained(merged)
    opened = load(ModelConfig(path=merged), torch.float32)
    ids = torch.tensor([opened.tokenizer("one two three").input_ids])
    theirs = opened.tokenizer.decode(model.generate(ids)[0, ids.shape[1] :], skip_special_tokens=True)
    assert theirs == answers[0]["text"]
    assert call(["generate", run, "one two three", "--json", "--max-new-tokens", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] <= 3
    assert call(["generate", run, "one", "--min-new-tokens", "30"]) == 2
    assert "max_new_tokens" in capsys.readouterr().err


def test_stored_stop_texts_do_not_join_those_asked_for(tmp_path: Path, loaded: Loaded) -> None:
    """A model whose file names a stop text still writes on where none is asked for, and is as before afterwards."""
    plain = generate(loaded, [[5, 6, 7]], GenerateConfig(max_new_tokens=8))[0]
    loaded.model.generation_config.stop_strings = [plain.text[1:3]]
    assert generate(loaded, [[5, 6, 7]], GenerateConfig(max_new_tokens=8))[0].token_ids == plain.token_ids
    assert loaded.model.generation_config.stop_strings == [plain.text[1:3]]
