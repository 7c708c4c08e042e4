"""Bottleneck adapters: their arithmetic by hand and by AdapterHub, their places, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedModel, T5Config, T5Model

from burnish.adapters.attach import Attached, attach
from burnish.adapters.base import NotMergeable
from burnish.adapters.bottleneck import (
    ACTIVATIONS,
    Bottleneck,
    BottleneckConfig,
    ParallelBottleneck,
    ResidualBottleneck,
    SequentialBottleneck,
)
from burnish.adapters.lora import LoraConfig, projection_of
from burnish.core.config import build as build_config
from burnish.core.errors import UserError
from burnish.models.forward import hidden_states, supports_packing
from burnish.models.fuse import fuse
from tests.adapters.common import NAMES, logits, randomize
from tests.models.architectures import CONFIGS, build
from tests.support.tiny import tiny, tiny_inputs

PHASES = {"norm.weight": 1, "norm.bias": 2, "down": 3, "down_bias": 4, "up": 5, "up_bias": 6, "scale": 7}


def wave(shape: torch.Size, phase: float) -> Tensor:
    """Values that any library fills in alike: 0.3 sin(0.37 i + phase)."""
    return (torch.sin(torch.arange(shape.numel(), dtype=torch.float64) * 0.37 + phase) * 0.3).reshape(shape)


def small(kind: str) -> PreTrainedModel:
    """Two layers of width 8 in float64, filled with waves whose phase is the length of the parameter's name."""
    model: PreTrainedModel
    common: dict[str, Any] = {"vocab_size": 20}
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    if kind == "bert":
        model = BertModel(BertConfig(**common, **sizes, max_position_embeddings=16), add_pooling_layer=False)
    elif kind == "llama":
        model = LlamaModel(LlamaConfig(**common, **sizes, max_position_embeddings=16, pad_token_id=0))
    else:
        shape = {"d_model": 8, "num_layers": 2, "num_heads": 2, "d_kv": 4, "d_ff": 16}
        model = T5Model(T5Config(**common, **shape, pad_token_id=0, decoder_start_token_id=0))
    model = model.double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(wave(parameter.shape, len(name)))
    return model


def fill(attached: Attached) -> None:
    """Phase: of the parameter, plus the layer's number, plus 0.3 in a cross-attention and 0.6 in a feed-forward."""
    with torch.no_grad():
        for item in attached.placed:
            name, layer = item.site.name, item.site.layer
            assert layer is not None
            feed_forward = item.site.role in ("mlp.down", "mlp")
            part = 0.6 if feed_forward else 0.3 if "EncDec" in name else 0.0
            for key, parameter in item.adapter.named_parameters():
                parameter.data = wave(parameter.shape, PHASES[key] + layer + part)


HOULSBY = {"placement": "both", "activation": "gelu", "norm": True, "scale": 2.0}
LEARNED = {"activation": "tanh", "scale": "learned"}
PARALLEL = {"form": "parallel", "scale": 4.0}
ADAPTERHUB: list[tuple[str, dict[str, Any], int, list[float]]] = [
    (
        "bert", HOULSBY, 24,
        [0.2061424876, 0.2017472287, 0.2623723421, 0.1356356348, 0.1685337493, 0.2745887661, 0.4869359488,
         0.5040336164],
    ),
    (
        "bert", LEARNED, 10,
        [0.0997197931, 0.0613818572, 0.2091944147, -0.066324507, 0.055753109, 0.2733747179, 0.4422937617, 0.0394216109],
    ),
    (
        "bert", PARALLEL, 8,
        [0.2274076382, 0.2223352347, 0.2286607272, 0.1686918134, 0.1810632843, 0.2757092927, 0.4556471825,
         0.5407667206],
    ),
    (
        "bert", {"form": "after-norm"}, 8,
        [0.2450915583, 0.2251592657, 0.2393897331, 0.0583880616, 0.1100826653, 0.275168, 0.4787794641, 0.3109471222],
    ),
    (
        "bert", {"form": "after-norm", "placement": "both"}, 16,
        [0.2504902887, 0.1613928858, 0.2601659566, 0.0668636003, 0.1234224553, 0.2745224762, 0.4977091084,
         0.3338574746],
    ),
    (
        "llama", HOULSBY, 24,
        [-0.2647504627, -0.3025719388, -0.2642921481, -0.1653239043, -0.0311301603, 0.0882686262, 0.1243870688,
         0.0450849361],
    ),
    (
        "llama", LEARNED, 10,
        [-0.3961144754, -0.3249284837, -0.1134899156, 0.0379972233, 0.0004196485, -0.0973510782, -0.0252738642,
         -0.4576323738],
    ),
    (
        "t5", HOULSBY, 60,
        [-0.1306281851, -0.0073363746, -0.0157761211, -0.1404698914, -0.3219531414, -0.3895654215, -0.3895858459,
         -0.2452414827],
    ),
    (
        "t5", LEARNED, 20,
        [0.1763780461, -0.0110323933, 0.0244188142, 0.2757966061, 0.3068891266, 0.2341817192, 0.2793219869,
         -0.1115632669],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "count", "expected"), ADAPTERHUB)
def test_as_adapterhub(kind: str, options: dict[str, Any], count: int, expected: list[float]) -> None:
    """The last token's hidden states that AdapterHub's `adapters` 1.3.0 gives for the same weights, in float64.

    Its configurations: `BnConfig` as for Houlsby et al. (`original_ln_before=False, residual_before_ln=True`) with
    `mh_adapter`, for T5 `cross_adapter` too, `ln_before`, `scaling=2`; the same without `mh_adapter` and with
    `scaling="learned"`; `ParBnConfig(scaling=4)`; as for Pfeiffer et al., with `original_ln_before=True` too, without
    and with `mh_adapter`. Its T5 takes the softmax in fp32, which is 1e-8 here.
    """
    model = small(kind)
    attached = attach(model, BottleneckConfig(reduction_factor=4, **options))
    fill(attached)
    assert len(attached.trainable()) == count
    inputs = {"input_ids": torch.tensor([[3, 7, 1, 12, 5]])}
    if kind == "t5":
        inputs["decoder_input_ids"] = torch.tensor([[2, 9, 4]])
    with torch.no_grad():
        found = model(**inputs).last_hidden_state[0, -1]
    tolerance = 1e-8 if kind == "t5" else 2e-10
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=tolerance, rtol=0)


def adapter(kind: type[Bottleneck] = SequentialBottleneck, **options: Any) -> Bottleneck:
    """D = 2, W = 1, ``down = (1, -2)``, b = 0.5, ``up = (3, -1)``, b = (0.25, 0)."""
    made = kind(2, BottleneckConfig(width=1, **options), torch.device("cpu")).double()
    values = {"down": [[1.0, -2.0]], "down_bias": [0.5], "up": [[3.0], [-1.0]], "up_bias": [0.25, 0.0]}
    with torch.no_grad():
        for name, value in values.items():
            made.get_parameter(name).copy_(torch.tensor(value))
    return made


HOST = nn.Linear(2, 2)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_sequential_by_hand(scale: float) -> None:
    """h = (2, 0.5): down 2 - 1 + 0.5 = 1.5, relu 1.5, up (4.5, -1.5) + (0.25, 0) = (4.75, -1.5); s times that is added.
    h = (-1, 1): down -2.5, relu 0, so only the bias of up is left."""
    h = torch.tensor([[2.0, 0.5], [-1.0, 1.0]], dtype=torch.float64)
    wanted = h + scale * torch.tensor([[4.75, -1.5], [0.25, 0.0]])
    assert torch.equal(adapter(scale=scale).after(HOST, (), {}, h), wanted)


def test_parallel_by_hand() -> None:
    """The change is that of the input (2, 0.5), whatever the module returned, and the rest of a tuple is left alone."""
    x, h = torch.tensor([[2.0, 0.5]], dtype=torch.float64), torch.tensor([[7.0, 7.0]], dtype=torch.float64)
    made = adapter(ParallelBottleneck)
    wanted = torch.tensor([[11.75, 5.5]], dtype=torch.float64)
    assert torch.equal(made.after(HOST, (x,), {}, h), wanted)
    output = made.after(HOST, (), {"hidden_states": x}, (h, "weights"))
    assert torch.equal(output[0], wanted)
    assert output[1] == "weights"


def test_residual_by_hand() -> None:
    """x + f(x) goes in where x went, by place or by name."""
    inner, x = torch.zeros(1, 3), torch.tensor([[2.0, 0.5]], dtype=torch.float64)
    made, wanted = adapter(ResidualBottleneck), torch.tensor([[6.75, -1.0]], dtype=torch.float64)
    args, kwargs = made.before(HOST, (inner, x), {})
    assert args[0] is inner
    assert torch.equal(args[1], wanted)
    assert not kwargs
    args, kwargs = made.before(HOST, (inner,), {"input_tensor": x})
    assert torch.equal(kwargs["input_tensor"], wanted)


def test_a_learned_scale_is_a_number_that_learns() -> None:
    """d/ds of sum(s f) is sum(f) = 4.75 - 1.5."""
    made = adapter(scale="learned")
    made.after(HOST, (), {}, torch.tensor([[2.0, 0.5]], dtype=torch.float64)).sum().backward()
    assert made.get_parameter("scale").grad == pytest.approx([3.25])


def test_the_norm_is_a_layer_norm_of_the_input() -> None:
    """h = (2, 0) normalised is (1, -1) (but for eps): down 1 + 2 + 0.5 = 3.5, up (10.75, -3.5)."""
    h = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(
        adapter(norm=True).after(HOST, (), {}, h), h + torch.tensor([[10.75, -3.5]]), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", 1.5), ("gelu", 1.5 * 0.9331927987), ("silu", 1.5 / (1 + math.exp(-1.5))), ("tanh", math.tanh(1.5)),
        ("swish", 1.5 / (1 + math.exp(-1.5))), ("leaky_relu", 1.5),
        ("gelu_tanh", 0.75 * (1 + math.tanh(math.sqrt(2 / math.pi) * (1.5 + 0.044715 * 3.375)))),
    ],
)  # fmt: skip
def test_activations(name: str, expected: float) -> None:
    """At 1.5; Phi(1.5) = 0.93319."""
    assert float(ACTIVATIONS[name](torch.tensor(1.5, dtype=torch.float64))) == pytest.approx(expected, abs=1e-9)
    assert float(ACTIVATIONS["leaky_relu"](torch.tensor(-1.0))) == pytest.approx(-0.01)


def test_dropout_lies_inside_and_only_in_training() -> None:
    """At 1.5 inside, dropout of a half gives 0 or 3 there, and so 0.25 or 9.25 outside."""
    made, h = adapter(dropout=0.5), torch.tensor([[2.0, 0.5]], dtype=torch.float64).expand(200, 2)
    assert set((made.after(HOST, (), {}, h) - h)[:, 0].tolist()) == {0.25, 9.25}
    made.eval()
    assert set((made.after(HOST, (), {}, h) - h)[:, 0].tolist()) == {4.75}


FORMS: list[dict[str, Any]] = [
    {"placement": placement, "form": form, "norm": norm, "scale": scale}
    for placement in ("feed-forward", "attention", "both")
    for form, norm, scale in (("sequential", True, 1.0), ("parallel", False, "learned"))
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", FORMS, ids=lambda o: f"{o['placement']}-{o['form']}")
def test_every_form_starts_at_the_base_and_acts(name: str, options: dict[str, Any]) -> None:
    """To the bit at the start; every adapter reached by a gradient; the base again, to the bit, when it is off."""
    model, inputs = tiny(name), tiny_inputs(name)
    base = logits(tiny(name), inputs)
    attached = attach(model, BottleneckConfig(**options))
    assert torch.equal(logits(model, inputs), base)
    randomize(attached.trainable())
    assert not torch.allclose(logits(model, inputs), base, atol=1e-3)
    model(**inputs).logits.pow(2).sum().backward()
    assert all(bool(p.grad.any()) for _, p in attached.trainable() if p.grad is not None)
    assert attached.without_gradient() == []
    attached.detach_()
    assert torch.equal(logits(model, inputs), base)


@pytest.mark.parametrize(("name", "both"), [("gpt2", 4), ("llama", 4), ("bert", 4), ("t5", 10)])
@pytest.mark.parametrize("form", ["sequential", "parallel"])
def test_sites(name: str, both: int, form: Any) -> None:
    """Two layers of two sublayers; T5's two encoder layers have two and its two decoder layers three."""
    assert len(attach(tiny(name), BottleneckConfig(placement="both", form=form)).sites) == both
    feed_forward = attach(tiny(name), BottleneckConfig(form=form)).sites
    assert [s.layer for s in feed_forward] == list(range(4 if name == "t5" else 2))


@pytest.mark.parametrize("name", [n for n in CONFIGS if n not in ("bart", "marian", "opt")])
def test_parallel_knows_every_architecture(name: str) -> None:
    """As many modules around sublayers as maps that end one, and the adapters reach the output."""
    model = build(name)
    ids = {"input_ids": torch.tensor([[5, 9, 11]])}
    if model.config.is_encoder_decoder:
        ids["decoder_input_ids"] = torch.tensor([[0, 5]])
    with torch.no_grad():
        base = model(**ids, use_cache=False).logits
        sequential = attach(model, BottleneckConfig(placement="both", width=4), name="one")
        parallel = attach(model, BottleneckConfig(placement="both", width=4, form="parallel"), name="two")
        assert [(s.layer, s.role.split(".")[0]) for s in sorted_sites(sequential)] == [
            (s.layer, s.role) for s in sorted_sites(parallel)
        ]
        for attached in (sequential, parallel):
            for item in attached.placed:
                before = item.adapter.get_parameter("up_bias").clone()
                item.adapter.get_parameter("up_bias").fill_(0.5)
                item.adapter.get_parameter("up_bias")[0] = -1.5  # a constant would vanish in a norm
                with attached.use(attached.name):
                    assert not torch.allclose(model(**ids, use_cache=False).logits, base, atol=1e-4), item.site.name
                item.adapter.get_parameter("up_bias").copy_(before)


def sorted_sites(attached: Attached) -> list[Any]:
    return sorted(attached.sites, key=lambda s: (s.layer, s.role))


def test_layers_without_a_module_around_their_feed_forward_are_refused() -> None:
    with pytest.raises(UserError, match="no module around their feed-forward") as caught:
        attach(build("opt"), BottleneckConfig(form="parallel"))
    assert "form=sequential" in caught.value.fix
    attach(build("opt"), BottleneckConfig(form="parallel", placement="attention"))


@pytest.mark.parametrize(
    ("targets", "layers"),
    [("all", [0, 1, 2, 3]), (1, [1]), ("1", [1]), (-1, [3]), ("1-2", [1, 2]), ((0, "2-3"), [0, 2, 3]),
     ("re:decoder", [2, 3])],
)  # fmt: skip
def test_targets(targets: Any, layers: list[int]) -> None:
    """T5's decoder counts on from its encoder."""
    config = build_config(BottleneckConfig, {"targets": targets})
    assert [s.layer for s in attach(tiny("t5"), config).sites] == layers


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": 7}, "`7` matches no layer"),
        ({"targets": "encoder"}, "`encoder` matches no layer"),
        ({"targets": ()}, "empty"),
        ({"targets": "re:("}, "not a pattern"),
        ({"width": 33}, "a bottleneck of 33 is wider than the model's 32"),
    ],
)
def test_refusals(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        attach(tiny("llama"), BottleneckConfig(**options))
    assert caught.value.fix


@pytest.mark.parametrize(
    "values", [{"width": 4, "reduction_factor": 8}, {"scale": 0}, {"scale": "large"}, {"activation": "cosine"}]
)
def test_contradictions(values: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        build_config(BottleneckConfig, values)


@pytest.mark.parametrize(
    ("values", "width"), [({}, 2), ({"reduction_factor": 4}, 8), ({"reduction_factor": 100}, 1), ({"width": 5}, 5)]
)
def test_width(values: dict[str, Any], width: int) -> None:
    """Of a model 32 wide; 2 * D * W + W + D numbers each."""
    attached = attach(tiny("llama"), BottleneckConfig(**values))
    assert attached.parameters_count == 2 * (2 * 32 * width + width + 32)


def test_an_unknown_architecture_wants_the_maps_by_name() -> None:
    model = build("llama")
    model.config.__class__ = type("OddConfig", (type(model.config),), {"model_type": "odd"})
    for config in (BottleneckConfig(), BottleneckConfig(form="parallel")):
        with pytest.raises(UserError, match="`odd`") as caught:
            attach(model, config)
        assert "targets=re:PATTERN" in caught.value.fix
    assert len(attach(model, BottleneckConfig(targets=r"re:mlp\.down_proj$")).sites) == 2


def test_merging_is_refused_and_says_the_cost() -> None:
    """W = 2: 2 * 32 * 2 = 128 products beside the 64 * 32 = 2048 of `down_proj`: 6.2 %."""
    attached = attach(tiny("llama"), BottleneckConfig())
    with pytest.raises(NotMergeable, match=r"2 x 32 x 2 = 128 products per token .* 6\.2% on top"):
        attached.merge_()


LENGTHS = (9, 4, 6)


def outcome(model: Any, parameters: list[Tensor]) -> list[Tensor]:
    """Hidden states of a pack, and the gradients of a weighted sum of them."""
    ids = torch.randint(4, 380, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    hidden = hidden_states(model, {"input_ids": ids, "position_ids": positions, "segment_lengths": LENGTHS})
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    return [hidden.detach(), *torch.autograd.grad((hidden * weights).sum(), parameters)]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("with_lora", [False, True])
def test_fused_layers_apply_sequential_adapters(with_lora: bool, checkpointing: bool) -> None:
    """Behind the product of a fused layer: values and gradients of the plain way, behind a LoRA too."""
    model: Any = tiny("llama").train()
    supports_packing(model)
    lora = [LoraConfig(rank=4)] if with_lora else []
    attached = attach(model, [*lora, BottleneckConfig(placement="both", scale="learned")])
    randomize(attached.trainable())
    parameters: list[Tensor] = [p for _, p in attached.trainable()]
    wanted = outcome(model, parameters)
    assert fuse(model, projection_of) == 2
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    for found, expected in zip(outcome(model, parameters), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_order_decides_whether_a_layer_is_fused() -> None:
    """A LoRA after the adapter reads the map's input again, so it is not part of the map: the plain way is taken."""
    model: Any = tiny("llama")
    supports_packing(model)
    attach(model, [BottleneckConfig(), LoraConfig(rank=4)])
    assert fuse(model, projection_of) == 0
