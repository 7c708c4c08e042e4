"""Generation: order, stops, seeds, and nothing left changed behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from burnish.models.generate import (
    GenerateConfig,
    _batches,
    _until_stop,
    end_ids,
    generate,
    stream,
    turn_end_id,
)
from burnish.models.load import Loaded
from tests.support.tiny import tiny, tiny_tokenizer

PROMPTS = [[5, 9, 17, 30], [40], [7, 8, 9, 10, 11, 12, 13], [100, 50]]


@pytest.fixture
def loaded() -> Loaded:
    torch.manual_seed(0)
    model = tiny("llama").eval()
    with torch.no_grad():  # larger weights, so that the answers differ from prompt to prompt
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return Loaded(model, tiny_tokenizer(), "causal", "tiny", Path())


def greedy(loaded: Loaded, prompt: list[int], count: int) -> list[int]:
    """Greedy decoding without a cache, one forward pass per token."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in end_ids(loaded):
            break
    return ids[len(prompt) :]


def test_greedy_answers_in_the_order_of_the_prompts(loaded: Loaded) -> None:
    """Batches of one, of all and of some give what decoding by hand gives."""
    expected = [greedy(loaded, prompt, 8) for prompt in PROMPTS]
    assert len({tuple(ids) for ids in expected}) > 1
    for batch_tokens in (1, 32, 4096):
        found = generate(loaded, PROMPTS, GenerateConfig(max_new_tokens=8), batch_tokens)
        assert [list(g.token_ids) for g in found] == expected
        assert [g.text for g in found] == [loaded.tokenizer.decode(i, skip_special_tokens=True) for i in expected]
        assert [g.stopped for g in found] == [ids[-1] in end_ids(loaded) for ids in expected]


def test_the_head_gets_places_side_by_side(loaded: Loaded) -> None:
    """Of a slice of [N, T, D] PyTorch makes N products and copies the head's matrix N times; the hook is gone after."""
    seen: list[bool] = []
    head = loaded.model.get_output_embeddings()
    assert head is not None
    with torch.no_grad():
        handle = head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].is_contiguous()))
        generate(loaded, [[5, 9, 17], [7, 8, 9]], GenerateConfig(max_new_tokens=3))
        handle.remove()
    assert len(seen) >= 2 and all(seen) and not head._forward_pre_hooks


def test_sampling_follows_its_seed_and_leaves_the_global_state(loaded: Loaded) -> None:
    def sample(seed: int) -> list[tuple[int, ...]]:
        config = GenerateConfig(max_new_tokens=8, temperature=1.5, seed=seed)
        return [g.token_ids for g in generate(loaded, PROMPTS, config)]

    before = torch.get_rng_state()
    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_models_own_generation_settings_do_not_leak_in(loaded: Loaded) -> None:
    expected = [g.token_ids for g in generate(loaded, PROMPTS, GenerateConfig(max_new_tokens=6))]
    own = loaded.model.generation_config
    assert own is not None
    own.repetition_penalty, own.do_sample, own.temperature, own.no_repeat_ngram_size = 5.0, True, 9.0, 1
    assert [g.token_ids for g in generate(loaded, PROMPTS, GenerateConfig(max_new_tokens=6))] == expected


def test_a_stop_text_ends_and_is_cut_off(loaded: Loaded) -> None:
    whole = generate(loaded, PROMPTS[:1], GenerateConfig(max_new_tokens=8))[0].text
    stop = whole[len(whole) // 2]
    (found,) = generate(loaded, PROMPTS[:1], GenerateConfig(max_new_tokens=8, stop=(stop,)))
    assert found.text == whole.partition(stop)[0]
    assert found.stopped
    streamed = "".join(stream(loaded, PROMPTS[0], GenerateConfig(max_new_tokens=8, stop=(stop,))))
    assert streamed == found.text


def test_a_stream_is_the_generation(loaded: Loaded) -> None:
    config = GenerateConfig(max_new_tokens=8)
    assert "".join(stream(loaded, PROMPTS[0], config)) == generate(loaded, PROMPTS[:1], config)[0].text


def test_an_abandoned_stream_ends(loaded: Loaded) -> None:
    pieces = stream(loaded, PROMPTS[0], GenerateConfig(max_new_tokens=60))
    next(pieces, None)
    pieces.close()  # type: ignore[attr-defined]


def test_an_error_of_the_model_reaches_the_reader(loaded: Loaded) -> None:
    with pytest.raises(IndexError):
        list(stream(loaded, [10**6], GenerateConfig()))


def test_the_modes_come_back(loaded: Loaded) -> None:
    loaded.model.train()
    loaded.model.model.layers[1].eval()
    generate(loaded, PROMPTS, GenerateConfig(max_new_tokens=2))
    assert loaded.model.training
    assert not loaded.model.model.layers[1].training


def test_an_encoder_decoder_answers() -> None:
    torch.manual_seed(0)
    loaded = Loaded(tiny("t5").eval(), tiny_tokenizer(), "seq2seq", "tiny", Path())
    found = generate(loaded, PROMPTS, GenerateConfig(max_new_tokens=4))
    assert len(found) == len(PROMPTS)
    with torch.no_grad():
        prompt = torch.tensor([PROMPTS[0]])
        logits = loaded.model(input_ids=prompt, decoder_input_ids=torch.tensor([[0]])).logits
    assert found[0].token_ids[0] == int(logits[0, -1].argmax())


def test_an_empty_prompt_is_refused(loaded: Loaded) -> None:
    with pytest.raises(ValueError, match="without tokens"):
        generate(loaded, [[1], []], GenerateConfig())


def test_the_end_of_a_turn_is_found_in_the_template() -> None:
    """ChatML closes a turn with <|im_end|>; without a template there is no turn."""
    tokenizer = tiny_tokenizer()
    assert turn_end_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert turn_end_id(tokenizer) is None
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    assert turn_end_id(tokenizer) is None
    tokenizer.chat_template = None
    assert turn_end_id(tokenizer) is None


def test_batches_hold_to_their_budget() -> None:
    """Lengths 7, 4, 2, 1 and 3 new tokens: 10 places per row of the first batch, so two rows in 20."""
    assert list(_batches([4, 1, 7, 2], 3, 20)) == [[2, 0], [3, 1]]
    assert list(_batches([4, 1, 7, 2], 3, 1)) == [[2], [0], [3], [1]]
    assert list(_batches([], 3, 20)) == []


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["ab", "cd"], (), "abcd"),
        (["ab", "cd"], ("bc",), "a"),
        (["a", "b", "c", "d"], ("bcd",), "a"),
        (["a", "bc", "e"], ("bcd",), "abce"),
        (["x.y", "z"], ("z", "."), "x"),
    ],
)
def test_a_stop_text_across_pieces(pieces: list[str], stops: tuple[str, ...], expected: str) -> None:
    assert "".join(_until_stop(iter(pieces), stops)) == expected


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"max_new_tokens": 0}, {"temprature": 1}])
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        GenerateConfig.model_validate(wrong)
