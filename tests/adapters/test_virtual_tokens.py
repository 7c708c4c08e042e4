"""Prompt tuning, P-tuning and prefix tuning: against `peft`, against the base with a text in front, and by hand."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from burnish.adapters.attach import Attached, attach
from burnish.adapters.base import MethodConfig, NotMergeable
from burnish.adapters.load import load
from burnish.adapters.lora import LoraConfig
from burnish.adapters.p_tuning import PTuningConfig
from burnish.adapters.prefix import PrefixConfig
from burnish.adapters.prompt import PromptConfig
from burnish.adapters.prompts import resolve_text
from burnish.core.errors import UserError
from burnish.core.types import Batch
from burnish.models.attention import NAME
from burnish.models.forward import hidden_states
from burnish.models.preamble import cut_out, put_in_front
from tests.adapters.common import NAMES, logits, randomize, train_steps
from tests.adapters.test_contract import packed
from tests.support.tiny import tiny, tiny_inputs, tiny_tokenizer

P = 5
CONFIGS: dict[str, MethodConfig] = {
    "prompt": PromptConfig(num_virtual_tokens=P),
    "p-tuning mlp": PTuningConfig(num_virtual_tokens=P, encoder_width=24),
    "p-tuning lstm": PTuningConfig(num_virtual_tokens=P, encoder="lstm", encoder_width=24),
    "prefix": PrefixConfig(num_virtual_tokens=P),
    "prefix, reparameterized": PrefixConfig(num_virtual_tokens=P, reparameterize=True, encoder_width=24),
}
THEIRS: dict[str, peft.PeftConfig] = {
    "prompt": peft.PromptTuningConfig(num_virtual_tokens=P, num_transformer_submodules=1),
    "p-tuning mlp": peft.PromptEncoderConfig(
        num_virtual_tokens=P, encoder_hidden_size=24, num_transformer_submodules=1
    ),
    "p-tuning lstm": peft.PromptEncoderConfig(
        num_virtual_tokens=P, encoder_hidden_size=24, num_transformer_submodules=1,
        encoder_reparameterization_type="LSTM",
    ),
    "prefix": peft.PrefixTuningConfig(num_virtual_tokens=P, num_transformer_submodules=1),
    "prefix, reparameterized": peft.PrefixTuningConfig(
        num_virtual_tokens=P, num_transformer_submodules=1, prefix_projection=True, encoder_hidden_size=24
    ),
}  # fmt: skip
TASK_TYPES = {"gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM", "bert": "FEATURE_EXTRACTION", "t5": "SEQ_2_SEQ_LM"}

both_ways = pytest.mark.parametrize("kind", CONFIGS)
every_model = pytest.mark.parametrize("name", NAMES)


def base(name: str) -> PreTrainedModel:
    return tiny(name).double()


def inputs_of(name: str) -> dict[str, Tensor]:
    """Two rows, the second one padded on the right."""
    inputs = tiny_inputs(name)
    mask = torch.ones_like(inputs["input_ids"])
    mask[1, 7:] = 0
    return {**inputs, "attention_mask": mask}


def real(name: str, result: Tensor, skip: int = 0) -> Tensor:
    """What a model says of real tokens; `peft` leaves the places of prompts in."""
    if name == "t5":
        return result
    return torch.cat([result[0, skip:], result[1, skip : skip + 7]])


@both_ways
@every_model
def test_peft_loads_ours(kind: str, name: str, tmp_path: Path) -> None:
    if name == "t5" and kind.startswith("prefix"):
        pytest.skip("`peft` prefixes the decoder only; ours is saved in Burnish's own format")
    ours = base(name)
    attached = attach(ours, CONFIGS[kind])
    train_steps(ours, attached.trainable(), tiny_inputs(name), 1)
    attached.save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        theirs: Any = wrapped(name, tmp_path)
    found = theirs(**inputs_of(name)).logits
    skip = 0 if kind.startswith("prefix") else P
    expected = logits(ours, inputs_of(name))
    torch.testing.assert_close(real(name, found, skip), real(name, expected), atol=1e-6, rtol=1e-6)


def wrapped(name: str, folder: Path) -> Any:
    model = peft.PeftModel.from_pretrained(base(name), str(folder)).eval()
    return as_features(model) if name == "bert" else model


def as_features(model: Any) -> Any:
    """`peft` handles encoders as feature extraction or classification only, which a masked language model is not."""
    features = peft.PeftModelForFeatureExtraction(model.get_base_model(), model.active_peft_config)
    features.prompt_encoder["default"].load_state_dict(model.prompt_encoder["default"].state_dict())
    return features


@both_ways
@every_model
def test_we_load_theirs(kind: str, name: str, tmp_path: Path) -> None:
    if name == "t5" and kind.startswith("prefix"):
        pytest.skip("refused, see below")
    config = THEIRS[kind]
    config.task_type = TASK_TYPES[name]
    torch.manual_seed(0)
    theirs = peft.get_peft_model(base(name), config).eval()
    theirs.save_pretrained(str(tmp_path))
    ours = base(name)
    attached = load(tmp_path, ours)
    skip = 0 if kind.startswith("prefix") else P
    with torch.no_grad():
        expected = theirs(**inputs_of(name)).logits
    found = logits(ours, inputs_of(name))
    assert attached.parameters_count == sum(t.numel() for _, t in attached.trainable()) > 0
    torch.testing.assert_close(real(name, found), real(name, expected, skip), atol=1e-6, rtol=1e-6)


def test_peft_and_ours_share_key_heads(tmp_path: Path) -> None:
    """Four query heads over two key heads: a prefix has the keys' heads."""
    attached = attach(grouped(), CONFIGS["prefix"])
    attached.save(tmp_path)
    theirs: Any = peft.PeftModel.from_pretrained(grouped(), str(tmp_path)).eval()
    inputs = inputs_of("llama")
    torch.testing.assert_close(theirs(**inputs).logits, logits(attached.model, inputs), atol=1e-6, rtol=1e-6)
    assert attached.placed[0].adapter.get_parameter("key").shape == (P, 2, 8)


def grouped(window: int | None = None) -> Any:
    """A Llama, or with a window a Mistral, whose four query heads share two key heads."""
    sizes: dict[str, Any] = {
        "vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if window is None:
            return LlamaForCausalLM(LlamaConfig(**sizes)).eval().double()
        return MistralForCausalLM(MistralConfig(**sizes, sliding_window=window)).eval().double()


TEXT = tuple(range(20, 20 + P))


@pytest.mark.parametrize("make", [PromptConfig, PrefixConfig])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_text_to_start_from_is_the_text_in_front(make: Any, name: str) -> None:
    """Causally, vectors that are a text's embeddings, or keys and values that are the text's, are the text itself."""
    model, ids = base(name), tiny_inputs(name)["input_ids"]
    expected = logits(model, {"input_ids": in_front(ids)})[:, P:]
    attach(model, make(num_virtual_tokens=P, init="text", text="x", text_ids=TEXT))
    torch.testing.assert_close(logits(model, {"input_ids": ids}), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_packed_rows_each_begin_with_the_text(name: str) -> None:
    """The same in a pack of three rows, each of them against the base with the text before the row."""
    rows = [torch.arange(30, 30 + n) for n in (7, 1, 5)]
    model = base(name)
    expected = torch.cat([hidden_states(model, {"input_ids": in_front(row[None])})[0, P:] for row in rows])
    for make in (PromptConfig, PrefixConfig):
        attached = attach(model, make(num_virtual_tokens=P, init="text", text="x", text_ids=TEXT))
        torch.testing.assert_close(hidden_states(model, packed(rows))[0], expected, atol=1e-6, rtol=1e-6)
        attached.detach_()


def test_a_text_shorter_than_the_prompt_is_repeated() -> None:
    model = base("gpt2")
    attached = attach(model, PromptConfig(num_virtual_tokens=5, init="text", text="x", text_ids=(7, 9)))
    table = model.get_input_embeddings().get_parameter("weight")
    assert torch.equal(dict(attached.trainable()).popitem()[1], table[[7, 9, 7, 9, 7]].float())


def test_text_becomes_tokens_once_and_is_kept(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = PromptConfig(num_virtual_tokens=3, init="text", text="the cat")
    with pytest.raises(UserError, match="not turned into tokens"):
        attach(base("llama"), config)
    known = resolve_text(config, tokenizer)
    assert known.text_ids == tuple(tokenizer("the cat")["input_ids"]) and resolve_text(known, tokenizer) is known
    attach(base("llama"), known).save(tmp_path)
    assert load(tmp_path, base("llama")).configs == (known,)


def in_front(ids: Tensor) -> Tensor:
    return torch.cat([torch.tensor([TEXT]).expand(len(ids), -1), ids], dim=1)


@pytest.mark.parametrize("make", [PromptConfig, PrefixConfig])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_it_generates_what_the_base_does_behind_the_text(make: Any, name: str) -> None:
    """With a cache, in a batch that is padded on the left, and with a penalty that looks at the tokens so far."""
    model, rows = base(name), [torch.arange(30, 37), torch.arange(50, 54)]
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    alone = [model.generate(in_front(row[None]), **settings)[0, P:] for row in rows]
    attach(model, make(num_virtual_tokens=P, init="text", text="x", text_ids=TEXT))
    ids, mask = torch.zeros(2, 7, dtype=torch.long), torch.ones(2, 7, dtype=torch.long)
    ids[0], ids[1, 3:], mask[1, :3] = rows[0], rows[1], 0
    found = model.generate(ids, attention_mask=mask, **settings)
    assert found[0].tolist() == alone[0].tolist() and found[1, 3:].tolist() == alone[1].tolist()
    penalised = {**settings, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2}
    again = model.generate(ids, attention_mask=mask, **penalised)
    uncached = model.generate(ids, attention_mask=mask, use_cache=False, **penalised)
    assert again.tolist() == uncached.tolist() and int(again.max()) < 384


@both_ways
def test_an_encoder_decoder_generates_as_it_does_without_a_cache(kind: str) -> None:
    model = base("t5")
    randomize(attach(model, CONFIGS[kind]).trainable(), std=0.5)
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    given = inputs_of("t5")
    given = {name: given[name] for name in ("input_ids", "attention_mask")}
    cached, whole = (model.generate(**given, use_cache=on, **settings) for on in (True, False))
    assert cached.tolist() == whole.tolist()


@pytest.mark.parametrize("name", NAMES)
@both_ways
def test_padding_changes_nothing(kind: str, name: str) -> None:
    model = base(name)
    randomize(attach(model, CONFIGS[kind]).trainable(), std=0.5)
    both = inputs_of(name)
    alone = {key: value[1:] if key.startswith("decoder") else value[1:, :7] for key, value in both.items()}
    found, wanted = logits(model, both)[1:], logits(model, alone)
    torch.testing.assert_close(found[:, : wanted.shape[1]], wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("length", [4, 20])
def test_a_sliding_window_does_not_slide_over_the_prefix(length: int) -> None:
    """A window of 6 over rows that are shorter and longer: packed and alone, every token sees the whole prefix."""
    model = grouped(window=6)
    attached = attach(model, CONFIGS["prefix"])
    randomize(attached.trainable(), std=1.0)
    rows = [torch.arange(30, 30 + length), torch.arange(60, 63)]
    alone = torch.cat([hidden_states(model, {"input_ids": row[None]})[0] for row in rows])
    torch.testing.assert_close(hidden_states(model, packed(rows))[0], alone, atol=1e-9, rtol=1e-9)
    (found,) = torch.autograd.grad(hidden_states(model, packed(rows))[0, length - 1].sum(), attached.trainable()[0][1])
    assert bool((found.abs().sum(dim=(1, 2)) > 0).all())


def test_sets_stand_behind_each_other() -> None:
    """Two prompts of three and two tokens are one of five; so are two prefixes."""
    for kind in ("prompt", "prefix"):
        model, inputs = base("llama"), inputs_of("llama")
        whole = attach(model, CONFIGS[kind])
        expected = logits(model, inputs)
        first = base("llama")
        config = CONFIGS[kind].model_copy(update={"num_virtual_tokens": 3})
        front = attach(first, config.model_copy(update={"num_virtual_tokens": 2}), name="front")
        back = attach(first, config, name="back")
        # a prompt is put before what is there already, a prefix behind it
        order = ("back", "front") if kind == "prompt" else ("front", "back")
        for (_, target), (_, a), (_, b) in zip(whole.trainable(), front.trainable(), back.trainable(), strict=True):
            a.data.copy_(target[:2])
            b.data.copy_(target[2:])
        with front.use(*order):
            torch.testing.assert_close(logits(first, inputs), expected, atol=1e-9, rtol=1e-9)
            packs = packed([torch.arange(5, 12), torch.arange(20, 23)])
            torch.testing.assert_close(hidden_states(first, packs), hidden_states(model, packs), atol=1e-6, rtol=1e-6)


@both_ways
def test_merging_is_refused_with_its_cost(kind: str) -> None:
    with pytest.raises(NotMergeable, match=r"each row carries 5 more .* 4% of the work on a row of 128"):
        attach(base("llama"), CONFIGS[kind]).merge_()


@both_ways
def test_rows_without_room_are_refused(kind: str) -> None:
    """A model of 128 positions takes rows of 123 tokens behind five virtual ones."""
    model = base("gpt2")
    attach(model, CONFIGS[kind])
    model(input_ids=torch.zeros(1, 123, dtype=torch.long))
    with pytest.raises(UserError, match="124 tokens and 5 virtual ones does not fit: the model has 128 positions"):
        model(input_ids=torch.zeros(1, 124, dtype=torch.long))
    with pytest.raises(UserError, match="128 virtual tokens leave no room"):
        attach(base("gpt2"), CONFIGS[kind].model_copy(update={"num_virtual_tokens": 128}))


def test_prefixes_without_effect_are_refused() -> None:
    """Another attention function would take no notice of the prefix."""
    model = base("llama")
    attach(model, CONFIGS["prefix"])
    model.set_attn_implementation("sdpa")
    with pytest.raises(UserError, match="set to `sdpa`, which knows no prefixes"):
        logits(model, inputs_of("llama"))
    model.set_attn_implementation(NAME)
    logits(model, inputs_of("llama"))
    model = base("llama")
    model.set_attn_implementation("eager")
    with pytest.raises(UserError, match="cannot be given prefix keys"):
        attach(model, CONFIGS["prefix"])


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_every_row_can_have_a_prompt_of_its_own(layout: str) -> None:
    """Rows with prompts of 5 and 2 vectors in one batch get what each gets alone."""
    model = base("llama").base_model
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randn(n, 32, generator=generator).double() for n in (5, 2)]
    rows = [torch.arange(30, 37), torch.arange(50, 54)]
    alone = [through(model, {"input_ids": row[None]}, [p])[0] for row, p in zip(rows, prompts, strict=True)]
    if layout == "packed":
        batch: Batch = packed(rows)
        given = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
        torch.testing.assert_close(through(model, given, prompts)[0], torch.cat(alone), atol=1e-9, rtol=1e-9)
        return
    ids, mask = torch.zeros(2, 7, dtype=torch.long), torch.ones(2, 7, dtype=torch.long)
    ids[0], ids[1, :4], mask[1, 4:] = rows[0], rows[1], 0
    found = through(model, {"input_ids": ids, "attention_mask": mask}, prompts)
    torch.testing.assert_close(found[0], alone[0], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found[1, :4], alone[1], atol=1e-9, rtol=1e-9)


@torch.no_grad()
def through(model: Any, given: dict[str, Any], prompts: list[Tensor]) -> Tensor:
    made = put_in_front(model, given, prompts)
    return cut_out(made, model(**made, use_cache=False), prompts).last_hidden_state


def test_a_foreign_prompt_is_refused(tmp_path: Path) -> None:
    attach(base("llama"), CONFIGS["prompt"]).save(tmp_path)
    wider = LlamaForCausalLM(
        LlamaConfig(vocab_size=384, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(UserError, match=r"belongs to another base: `prompt_embeddings` is \(5, 32\).*\(5, 16\)"):
        load(tmp_path, wider)
    torch.manual_seed(0)
    both = peft.PromptTuningConfig(num_virtual_tokens=P, task_type="SEQ_2_SEQ_LM")
    peft.get_peft_model(base("t5"), both).save_pretrained(str(tmp_path / "two"))
    with pytest.raises(UserError, match="prompts the decoder too"):
        load(tmp_path / "two", base("t5"))
    theirs = peft.PrefixTuningConfig(num_virtual_tokens=P, num_transformer_submodules=1, task_type="SEQ_2_SEQ_LM")
    peft.get_peft_model(base("t5"), theirs).save_pretrained(str(tmp_path / "three"))
    with pytest.raises(UserError, match="act on its decoder only"):
        load(tmp_path / "three", base("t5"))


def test_a_network_goes_on_where_it_was(tmp_path: Path) -> None:
    """`peft` keeps the vectors; beside them lies the network, so that trained tensors are all there again."""
    for kind in ("p-tuning lstm", "prefix, reparameterized"):
        model = base("llama")
        attached = attach(model, CONFIGS[kind])
        train_steps(model, attached.trainable(), inputs_of("llama"), 1)
        attached.save(tmp_path / kind)
        again = load(tmp_path / kind, base("llama"))
        assert again.configs == attached.configs
        for (name, wanted), (other, found) in zip(attached.trainable(), again.trainable(), strict=True):
            assert name == other and torch.equal(wanted, found)


@pytest.mark.parametrize("headless", [False, True])
def test_they_combine_and_load_under_another_name(headless: bool, tmp_path: Path) -> None:
    """A prompt, a prefix and LoRA at once; a model without a head carries the prompt at its root, which has no name."""

    def model() -> PreTrainedModel:
        return base("bert").base_model if headless else base("bert")

    def outcome(attached: Attached) -> Tensor:
        with torch.no_grad():
            return attached.model(**inputs_of("bert"))[0]

    attached = attach(model(), [CONFIGS["prompt"], CONFIGS["prefix"], LoraConfig(rank=2)])
    randomize(attached.trainable(), std=0.3)
    attached.save(tmp_path)
    again = load(tmp_path, model(), name="other")
    assert torch.equal(outcome(again), outcome(attached))
    with again.disabled():
        assert torch.equal(outcome(again), model()(**inputs_of("bert"))[0])
