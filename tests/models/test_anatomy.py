"""Roles, layers and the selection of sites."""

from __future__ import annotations

from collections import Counter

import pytest
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from burnish.core.errors import UserError
from burnish.models.anatomy import ANATOMY, layers, report, select, sites
from tests.models.architectures import CONFIGS, SEQ2SEQ, build

_SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def encoder(name: str) -> PreTrainedModel:
    if name == "bert":
        return BertForMaskedLM(BertConfig(**_SIZES))
    if name == "roberta":
        return RobertaForMaskedLM(RobertaConfig(**_SIZES))
    if name == "modernbert":
        return ModernBertForMaskedLM(ModernBertConfig(**_SIZES, pad_token_id=0))
    config = DistilBertConfig(vocab_size=97, dim=32, n_layers=2, n_heads=4, hidden_dim=48)
    return DistilBertForMaskedLM(config)


@pytest.mark.parametrize("name", [*CONFIGS, "bert", "roberta", "modernbert", "distilbert"])
def test_every_linear_map_of_a_layer_has_a_part(name: str) -> None:
    """In a known architecture no linear map inside a layer is left over, and each belongs to exactly one role."""
    model = build(name) if name in CONFIGS else encoder(name)
    assert model.config.model_type in ANATOMY
    found = sites(model)
    left_over = [site.name for site in found if site.role == "linear"]
    assert left_over == []
    inside = [site for site in found if site.layer is not None and isinstance(site.host, nn.Linear)]
    assert all(site.role.startswith(("attention.", "mlp.")) for site in inside)
    assert {"attention.output", "mlp.down"} <= {site.role for site in found}
    assert report(model) == []


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_are_counted_through(name: str) -> None:
    """Two layers; an encoder of two and a decoder of two or three in the others."""
    expected = {"bart": 5, "marian": 5}.get(name, 4 if name in SEQ2SEQ else 2)
    model = build(name)
    assert [index for index, _ in layers(model)] == list(range(expected))
    assert {site.layer for site in sites(model)} == {None, *range(expected)}


def test_a_llama_by_hand() -> None:
    """Two layers of q, k, v, o, gate, up and down: 14 linear maps, beside one embedding and the head."""
    found = sites(build("llama"))
    assert Counter(site.role for site in found) == {
        "attention.query": 2, "attention.key": 2, "attention.value": 2, "attention.output": 2,
        "mlp.gate": 2, "mlp.up": 2, "mlp.down": 2, "embedding": 1, "head": 1,
    }  # fmt: skip
    first = next(site for site in found if site.role == "mlp.down")
    assert (first.name, first.layer) == ("model.layers.0.mlp.down_proj", 0)


def test_t5s_cross_attention_and_gates() -> None:
    """Two encoder layers with one attention each, two decoder layers with two: 6 queries; wi_0 gates, wi_1 goes up."""
    found = Counter(site.role for site in sites(build("t5-v1.1")))
    assert (found["attention.query"], found["mlp.gate"], found["mlp.up"], found["mlp.down"]) == (6, 4, 4, 4)
    assert Counter(site.role for site in sites(build("t5")))["mlp.up"] == 4


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ("all-linear", 14),
        ("attention", 8),
        ("mlp", 6),
        ("attention.query", 2),
        (["attention.query", "attention.value"], 4),
        ("q_proj", 2),
        ("self_attn.q_proj", 2),
        ("model.layers.1.mlp.up_proj", 1),
        ("re:layers\\.0\\..*_proj$", 7),
        (["q_proj", "attention.query"], 2),
        ("head", 1),
        ("embedding", 1),
        (["all-linear", "lm_head"], 15),
    ],
)
def test_targets(targets: str | list[str], count: int) -> None:
    assert len(select(build("llama"), targets)) == count


def test_conv1d_hosts_are_sites_too() -> None:
    """GPT-2's four Conv1D per layer."""
    chosen = select(build("gpt2"), "all-linear")
    assert [type(site.host).__name__ for site in chosen] == ["Conv1D"] * 8
    assert [site.role for site in chosen[:4]] == ["attention.qkv", "attention.output", "mlp.up", "mlp.down"]


def test_a_suffix_is_whole_words() -> None:
    """`proj` is no module name; `up_proj` does not stand for `gate_up_proj`."""
    with pytest.raises(UserError):
        select(build("llama"), "proj")
    with pytest.raises(UserError):
        select(build("phi3"), "up_proj")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("qproj", "nearest: `q_proj`"),
        ("atention", "nearest: `attention`"),
        ("attention.qkv", "matches no module"),
        ("re:(", "not a regular expression"),
        ("re:nothing", "matches no module"),
        (["q_proj", "zzz"], "`targets: zzz` matches no module"),
        ([], "empty"),
    ],
)
def test_a_target_without_a_match_names_the_nearest(targets: str | list[str], message: str) -> None:
    with pytest.raises(UserError, match="(?s)" + message.replace("(", "\\(")):
        select(build("llama"), targets)


def test_an_unknown_architecture_is_walked_and_reported() -> None:
    model = build("llama")
    model.config.__class__ = type("OddConfig", (type(model.config),), {"model_type": "odd"})
    assert Counter(site.role for site in sites(model)) == {"linear": 14, "embedding": 1, "head": 1}
    assert len(select(model, "all-linear")) == 14
    (finding,) = report(model)
    assert finding.evidence["modules"] == sorted(finding.evidence["modules"])
    assert "q_proj" in finding.what
    with pytest.raises(UserError):
        select(model, "attention")


def test_poolers_and_projections_outside_the_layers_are_left_out() -> None:
    """OPT's project_in and project_out change the width around the layers."""
    model = build("opt")
    outside = {site.name for site in sites(model) if site.role == "outside"}
    assert {name.rsplit(".", 1)[-1] for name in outside} == {"project_in", "project_out"}
    assert not outside & {site.name for site in select(model, "all-linear")}
