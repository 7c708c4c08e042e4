"""Packs, padding and encoder-decoders: a row gets the hidden states and gradients that it gets alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, BertConfig, BertForMaskedLM, PreTrainedModel

from burnish.core.errors import UserError
from burnish.core.types import Batch
from burnish.models import forward
from burnish.models.attention import NAME, use_packed_attention
from burnish.models.forward import hidden_states, is_causal, packing_mode, supports_packing
from tests.models.architectures import CAUSAL, SEGMENTS, SEQ2SEQ, build, ids

LENGTHS = (9, 1, 12, 5)  # longer than the sliding window of 4; and a row of one token


def pack(rows: list[Tensor]) -> Batch:
    lengths = tuple(row.shape[1] for row in rows)
    return {
        "input_ids": torch.cat(rows, 1),
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "segment_lengths": lengths,
    }


def rows() -> list[Tensor]:
    return [ids(n, seed) for seed, n in enumerate(LENGTHS)]


def gradients(model: PreTrainedModel, states: Tensor) -> dict[str, Tensor]:
    """Gradients of a fixed random projection of the states."""
    upstream = torch.randn(states.shape, generator=torch.Generator().manual_seed(7))
    model.zero_grad()
    (states * upstream).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(found[name] / scale, gradient / scale, rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize("name", [*SEGMENTS, "gpt_neo"])
def test_a_packed_row_is_the_row_alone(name: str) -> None:
    """Hidden states to 1e-4 of values of order 1, and every parameter's gradient to 2e-5 of its largest."""
    model = build(name)
    assert packing_mode(model) == ("segments" if name in SEGMENTS else "mask")
    alone = torch.cat([hidden_states(model, {"input_ids": row}) for row in rows()], 1)
    expected = gradients(model, alone)
    packed = hidden_states(model, pack(rows()))
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)
    assert_same_gradients(gradients(model, packed), expected)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_gradient_checkpointing_changes_nothing_in_a_pack(name: str) -> None:
    model = build(name)
    expected = gradients(model, hidden_states(model, pack(rows())))
    model.gradient_checkpointing_enable()
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.attention_dropout = 0.0
    assert_same_gradients(gradients(model, hidden_states(model, pack(rows()))), expected)


@pytest.mark.parametrize("name", CAUSAL)
def test_right_padding_changes_nothing(name: str) -> None:
    """The states of the real tokens of a padded batch are those of each row alone."""
    model = build(name)
    supports_packing(model)
    two = [ids(9, 1), ids(5, 2)]
    width = 9
    batch: Batch = {
        "input_ids": torch.cat([torch.nn.functional.pad(row, (0, width - row.shape[1])) for row in two]),
        "attention_mask": torch.stack([(torch.arange(width) < row.shape[1]).long() for row in two]),
        "position_ids": torch.arange(width).expand(2, -1),
    }
    padded = hidden_states(model, batch)
    for index, row in enumerate(two):
        alone = hidden_states(model, {"input_ids": row})[0]
        torch.testing.assert_close(padded[index, : row.shape[1]], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*SEGMENTS, *SEQ2SEQ])
def test_our_attention_is_the_librarys_outside_of_packs(name: str) -> None:
    """Same logits as with the implementation that the model came with, with and without padding, and in generation."""
    before, after = build(name), build(name)
    if getattr(before.config, "attn_logit_softcapping", None):  # some versions run SDPA and leave the cap out
        before.set_attn_implementation("eager")
    assert use_packed_attention(after)
    assert after.config._attn_implementation == NAME
    inputs: dict[str, Any] = {"input_ids": torch.cat([ids(8, 1), ids(8, 2)])}
    inputs["attention_mask"] = torch.tensor([[1] * 8, [0] * 3 + [1] * 5])
    if name in SEQ2SEQ:
        inputs["decoder_input_ids"] = torch.cat([ids(4, 3), ids(4, 4)])
    with torch.no_grad():
        mask = inputs["attention_mask"].bool() if name not in SEQ2SEQ else torch.ones(2, 4, dtype=torch.bool)
        torch.testing.assert_close(after(**inputs).logits[mask], before(**inputs).logits[mask], rtol=1e-5, atol=1e-5)
        settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        inputs.pop("decoder_input_ids", None)
        assert torch.equal(after.generate(**inputs, **settings), before.generate(**inputs, **settings))


def test_only_the_given_instance_is_changed() -> None:
    one, other = build("llama"), build("llama")
    sdpa = AttentionInterface()["sdpa"]
    use_packed_attention(one)
    assert (one.config._attn_implementation, other.config._attn_implementation) == (NAME, "sdpa")
    assert AttentionInterface()["sdpa"] is sdpa
    assert NAME not in one.config.to_json_string()


def test_packs_make_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """SDPA gets no mask at all for rows shorter than the window, and [n, n] ones at most for longer rows."""
    monkeypatch.setattr(forward, "PACK_MULTIPLE", {})  # a filling row would be one more
    seen: list[Tensor | None] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(kwargs.get("attn_mask"))
        return kernel(*args, **kwargs)

    for name in ("llama", "mistral"):
        model = build(name)
        supports_packing(model)
        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
            hidden_states(model, pack(rows()))
    assert len(seen) == 2 * 2 * len(LENGTHS)
    assert max(mask.shape[-1] for mask in seen if mask is not None) == max(LENGTHS)
    assert seen[: 2 * len(LENGTHS)] == [None] * 2 * len(LENGTHS)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
def test_packs_are_filled_and_cut_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backbone sees a multiple of 32 tokens, the caller those of the batch, with the values of the bare pack."""
    model = build(name)
    supports_packing(model)
    batch, widths = pack(rows()), []
    handle = model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    filled = hidden_states(model, batch)
    monkeypatch.setattr(forward, "PACK_MULTIPLE", {})
    bare = hidden_states(model, batch)
    handle.remove()
    length = batch["input_ids"].shape[1]
    assert widths == [-(-length // 32) * 32, length] and filled.shape == bare.shape == (1, length, filled.shape[-1])
    torch.testing.assert_close(filled, bare, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bloom", "t5", "bart"])
def test_a_model_that_cannot_be_packed_says_so(name: str) -> None:
    model = build(name)
    assert not supports_packing(model)
    with pytest.raises(UserError, match="bucketed"):
        hidden_states(model, pack(rows()))


def test_a_window_that_does_not_arrive_is_noticed() -> None:
    """The rows of the probe fit in any real window; a missing one shows in what attention is told, not in values."""
    model = build("mistral", sliding_window=4096)
    assert packing_mode(model) == "segments"
    broken = build("llama")
    broken.config.sliding_window = 4096  # declared, but this model's code does not hand it on
    assert packing_mode(broken) != "segments"


def test_the_probe_leaves_the_modes_alone() -> None:
    model = build("llama")
    model.train()
    model.model.layers[0].eval()
    assert supports_packing(model)
    assert model.training
    assert not model.model.layers[0].training


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_decoder_states_of_a_padded_encoder_are_those_of_the_row_alone(name: str) -> None:
    model = build(name)
    two = [ids(9, 1), ids(5, 2)]
    decoder = torch.cat([ids(4, 3), ids(4, 4)])
    batch: Batch = {
        "input_ids": torch.cat([torch.nn.functional.pad(row, (0, 9 - row.shape[1])) for row in two]),
        "attention_mask": torch.stack([(torch.arange(9) < row.shape[1]).long() for row in two]),
        "decoder_input_ids": decoder,
        "decoder_attention_mask": torch.ones_like(decoder),
    }
    states = hidden_states(model, batch)
    for index, row in enumerate(two):
        alone = hidden_states(model, {"input_ids": row, "decoder_input_ids": decoder[index : index + 1]})
        torch.testing.assert_close(states[index], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_models_do_not_see_the_future(name: str) -> None:
    assert is_causal(build(name))


def test_an_encoder_sees_the_future() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    bert = BertForMaskedLM(BertConfig(**sizes, num_attention_heads=4, initializer_range=0.2)).eval()
    assert not is_causal(bert)
    assert packing_mode(bert) == "segments"
