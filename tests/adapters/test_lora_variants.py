"""DoRA, LoRA+, patterns, starts and fused parts: hand-worked values, `peft` as oracle, files both ways."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from burnish.adapters.adalora import AdaloraConfig
from burnish.adapters.attach import attach
from burnish.adapters.base import MethodConfig
from burnish.adapters.load import load
from burnish.adapters.lora import LoraConfig
from burnish.adapters.lora_config import InitOptions
from burnish.adapters.lora_init import truncated_svd
from burnish.adapters.lora_layers import DoraAdapter, LoraAdapter, matrix_of, projection_of
from burnish.adapters.vera import VeraConfig
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.models.fuse import fuse
from burnish.objectives.context import ModelContext
from burnish.ops.projections import project
from burnish.optim.groups import parameter_groups
from tests.adapters.common import gradients, logits, loss, randomize, train_steps
from tests.adapters.test_contract import assert_equal_gradients, packed
from tests.support.tiny import tiny, tiny_inputs

EXACT = {"atol": 1e-10, "rtol": 1e-10}


def tuned(name: str, config: LoraConfig, folder: Path) -> PreTrainedModel:
    """A model whose adapters hold random values and are saved."""
    model = tiny(name)
    attached = attach(model, config)
    randomize(attached.trainable(), std=0.3)
    attached.save(folder, base_path="the/base")
    return model


def by_peft(folder: Path, name: str, **options: Any) -> Any:
    """A model that `peft` made, filled with random values and saved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = peft.get_peft_model(tiny(name), peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **options})).eval()
        randomize([(n, p) for n, p in model.named_parameters() if p.requires_grad], std=0.3)
        model.save_pretrained(str(folder))
    return model


CASES: list[tuple[str, LoraConfig]] = [
    ("llama", LoraConfig(rank=4, dora=True)),
    ("gpt2", LoraConfig(rank=4, alpha=5, dora=True, rslora=True)),
    ("bert", LoraConfig(rank=4, dora=True)),
    ("gpt2", LoraConfig(rank=4, dora=True, targets=("wte", "c_attn"))),
    ("llama", LoraConfig(rank=4, rank_pattern={"mlp": 6, "re:layers.0.*q_proj": 2}, alpha_pattern={"attention": 3})),
    ("llama", LoraConfig(rank=4, rslora=True, rank_pattern={"mlp.down": 9})),
    ("llama", LoraConfig(rank=4, init="pissa")),
    ("gpt2", LoraConfig(rank=4, init="pissa", init_options=InitOptions(iterations=2))),
    ("gpt2", LoraConfig(rank=4, init="olora", rank_pattern={"mlp": 2})),
    ("llama", LoraConfig(rank=4, init="lora_ga", dora=True)),
    ("gpt2", LoraConfig(rank=4, fused_parts=("q", "v"))),
    ("gpt2", LoraConfig(rank=4, fused_parts=("v",), dora=True)),
]


@pytest.mark.parametrize(("name", "config"), CASES)
def test_peft_loads_ours_and_we_load_it_back(name: str, config: LoraConfig, tmp_path: Path) -> None:
    """In fp64 to 1e-10 by `peft`; by ourselves to the bit, with the configuration as it was given."""
    ours, inputs = tuned(name, config, tmp_path), tiny_inputs(name)
    again = tiny(name)
    assert load(tmp_path, again).configs == (config,)
    assert torch.equal(logits(again, inputs), logits(ours, inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        theirs: Any = peft.PeftModel.from_pretrained(tiny(name), str(tmp_path))
    ours.double(), theirs.double()
    torch.testing.assert_close(logits(theirs, inputs), logits(ours, inputs), **EXACT)
    ours.float()
    assert not torch.allclose(logits(ours, inputs), logits(tiny(name), inputs), atol=1e-2)


@pytest.mark.parametrize(("name", "config"), CASES)
def test_without_our_description_the_function_is_the_same(name: str, config: LoraConfig, tmp_path: Path) -> None:
    ours, inputs, again = tuned(name, config, tmp_path), tiny_inputs(name), tiny(name)
    (tmp_path / "burnish.json").unlink()
    load(tmp_path, again)
    torch.testing.assert_close(logits(again.double(), inputs), logits(ours.double(), inputs), **EXACT)


THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"target_modules": "all-linear", "use_dora": True}),
    ("gpt2", {"target_modules": ["c_attn", "wte"], "use_dora": True}),
    ("bert", {"target_modules": ["query", "value"], "use_dora": True, "use_rslora": True}),
    (
        "llama",
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"q_proj": 6, "layers.1.mlp.down_proj": 2},
            "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 3},
        },
    ),
]


@pytest.mark.parametrize(("name", "options"), THEIRS)
def test_we_load_what_peft_saved(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    theirs, ours, inputs = by_peft(tmp_path, name, **options), tiny(name), tiny_inputs(name)
    attached = load(tmp_path, ours)
    torch.testing.assert_close(logits(ours.double(), inputs), logits(theirs.double(), inputs), **EXACT)
    fresh = attach(tiny(name), attached.configs[0])  # the configuration that was read gives adapters of these shapes
    assert [(s.name, p.shape) for s, (_, p) in zip(fresh.sites, fresh.trainable(), strict=False)] == [
        (s.name, p.shape) for s, (_, p) in zip(attached.sites, attached.trainable(), strict=False)
    ]


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_we_load_starts_that_peft_makes_anew(start: str, tmp_path: Path) -> None:
    """`peft` saves A and B and takes B0 A0 off the base at loading: both of us decompose the base again, in fp32."""
    options: dict[str, Any] = {"target_modules": ["q_proj", "up_proj"], "init_lora_weights": start}
    theirs, ours, inputs = by_peft(tmp_path, "llama", **options), tiny("llama"), tiny_inputs("llama")
    load(tmp_path, ours)
    torch.testing.assert_close(logits(ours, inputs), logits(theirs, inputs), atol=2e-4, rtol=1e-4)


def test_dora_by_hand() -> None:
    """W = [[3, 4]], A = [[1, 0]], B = [[-3]], s = 1, b = 2, m = 10: V = W + B A = [[0, 4]] of length 4.

    x = [1, 1] gives h = 2 + 10 * 4 / 4 = 12. At the start m = ||W|| = 5.
    """
    host = nn.Linear(2, 1)
    with torch.no_grad():
        host.weight.copy_(torch.tensor([[3.0, 4.0]]))
        host.bias.fill_(2.0)
    adapter = DoraAdapter(host, 1, 1.0)
    assert adapter.magnitude.tolist() == [5.0]
    with torch.no_grad():
        adapter.A.copy_(torch.tensor([[1.0, 0.0]]))
        adapter.B.fill_(-3.0)
        adapter.magnitude.fill_(10.0)
    x = torch.ones(1, 2)
    assert adapter.after(host, (x,), {}, host(x)).tolist() == [[12.0]]
    adapter.merge_(host)
    assert host.weight.tolist() == [[0.0, 10.0]]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_dora_has_the_gradients_of_peft(name: str, tmp_path: Path) -> None:
    """No gradient through the norm (section 4.3)."""
    ours, inputs = tuned(name, LoraConfig(rank=4, dora=True), tmp_path), tiny_inputs(name)
    theirs: Any = peft.PeftModel.from_pretrained(tiny(name), str(tmp_path), is_trainable=True)
    loss(ours.double(), inputs).backward()
    loss(theirs.double(), inputs).backward()
    other = {n: p.grad for n, p in theirs.named_parameters() if p.requires_grad}
    inner = {"A": "lora_A.default.weight", "B": "lora_B.default.weight"}
    inner["magnitude"] = "lora_magnitude_vector.default.weight"
    for full, gradient in gradients((n, p) for n, p in ours.named_parameters() if p.requires_grad).items():
        site, _, key = full.partition(".burnish_adapters.default.lora.")
        torch.testing.assert_close(gradient, other.pop(f"base_model.model.{site}.{inner[key]}"), atol=1e-8, rtol=1e-8)
    assert not other


@pytest.mark.parametrize("config", [LoraConfig(dora=True, rank=4), LoraConfig(init="pissa", rank=4)])
def test_variants_are_fused_and_dropout_stands_beside(config: LoraConfig) -> None:
    """What is fused gives what the module itself gives; with a mask on the update's input the update is apart."""
    model = tiny("llama")
    attached = attach(model, config)
    randomize(attached.trainable())
    host = model.get_submodule("model.layers.0.self_attn.q_proj")
    x = torch.randn(5, host.in_features, generator=torch.Generator().manual_seed(0))
    found = projection_of(host)
    assert found is not None
    torch.testing.assert_close(project(x, [found])[0], host(x), atol=1e-5, rtol=1e-5)
    dropping = tiny("llama").train()
    attach(dropping, config.model_copy(update={"dropout": 0.5}))
    beside = projection_of(dropping.get_submodule("model.layers.0.self_attn.q_proj"))
    assert beside is not None and beside.beside is not None and beside.A is None


def test_pissa_starts_at_the_principal_part() -> None:
    """s B0 A0 is the best approximation of rank R (Eckart and Young): what is left has norm sqrt(sum of S_i^2, i > R).

    The two factors share the singular values evenly, so ``A0 A0^T = B0^T B0 = diag(S) / s``.
    """
    host = nn.Linear(12, 8)
    adapter = LoraAdapter(host, 3, 2.0, generator=torch.Generator().manual_seed(0), init="pissa")
    S = torch.linalg.svdvals(host.weight.detach())
    rest = host.weight.detach() - 2.0 * adapter.B.detach() @ adapter.A.detach()
    assert float(torch.linalg.norm(rest)) == pytest.approx(float(S[3:].square().sum().sqrt()), rel=1e-5)
    for gram in (adapter.A.detach() @ adapter.A.detach().t(), adapter.B.detach().t() @ adapter.B.detach()):
        torch.testing.assert_close(gram, torch.diag(S[:3] / 2.0), atol=1e-5, rtol=1e-4)


def test_the_fast_decomposition_is_near_the_exact_one() -> None:
    matrix = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) @ torch.diag(2.0 ** -torch.arange(6.0))
    U, S, Vh = truncated_svd(matrix, 3, torch.Generator().manual_seed(1), 4)
    torch.testing.assert_close(S, torch.linalg.svdvals(matrix)[:3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(U.t() @ U, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close((U * S) @ Vh, matrix @ Vh.t() @ Vh, atol=1e-4, rtol=0)


def test_olora_starts_at_the_qr_decomposition() -> None:
    """Q has orthonormal columns and R is triangular, so ``B0^T B0 = 1``: the first columns of W are in B0 A0."""
    host = nn.Linear(12, 8)
    adapter = LoraAdapter(host, 3, 2.0, generator=torch.Generator().manual_seed(0), init="olora")
    B, A = adapter.B.detach(), adapter.A.detach()
    torch.testing.assert_close(B.t() @ B, torch.eye(3), atol=1e-6, rtol=0)
    torch.testing.assert_close((B @ A)[:, :3], host.weight.detach()[:, :3], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_that_is_taken_off_trains_as_peft_does(start: str) -> None:
    """Three AdamW updates from the same start give `peft`'s function, which subtracts from the base, to rounding."""
    inputs = tiny_inputs("llama")
    ours = tiny("llama")
    attached = attach(ours, LoraConfig(rank=4, alpha=8, targets=("q_proj", "up_proj"), init=start))  # type: ignore[arg-type]
    theirs: Any = peft.get_peft_model(
        tiny("llama"),
        peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], init_lora_weights=start),  # type: ignore[arg-type]
    )
    named = [(n, p) for n, p in theirs.named_parameters() if p.requires_grad]
    train_steps(ours, attached.trainable(), inputs, 3)
    train_steps(theirs, named, inputs, 3)
    moved = (logits(ours, inputs) - logits(tiny("llama"), inputs)).abs().max()
    torch.testing.assert_close(logits(ours, inputs), logits(theirs, inputs), atol=2e-3 * float(moved), rtol=1e-3)


def test_orthogonal_factors_have_no_product() -> None:
    adapter = LoraAdapter(nn.Linear(12, 8), 4, 1.0, generator=torch.Generator().manual_seed(0), init="orthogonal")
    assert float((adapter.B.detach() @ adapter.A.detach()).abs().max()) < 1e-7
    assert torch.linalg.matrix_rank(adapter.A.detach()) == 2


def test_parts_of_a_fused_matrix() -> None:
    """q and v of `c_attn` as LoRA on matrices of their own: rows of k stay, and each part has rank R."""
    model = tiny("gpt2")
    attached = attach(model, LoraConfig(rank=4, targets="c_attn", fused_parts=("q", "v")))
    randomize(attached.trainable())
    adapter = attached.placed[0].adapter
    assert isinstance(adapter, LoraAdapter)
    host = attached.placed[0].site.host
    change = adapter.tuned(matrix_of(host)) - matrix_of(host)
    A, B = adapter.A.detach(), adapter.B.detach()
    torch.testing.assert_close(change[:32], adapter.scale * B[:32] @ A[:4], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(change[64:], adapter.scale * B[32:] @ A[4:], atol=1e-6, rtol=1e-4)
    assert not change[32:64].any()
    assert attached.parameters_count == 2 * (2 * 4 * 32 + 64 * 4)


def test_lora_plus_gives_b_its_own_rate() -> None:
    """The optimiser's groups: A at the base rate, B at 16 times that."""
    attached = attach(tiny("llama"), LoraConfig(rank=4, b_rate_scale=16))
    groups = parameter_groups(attached.trainable(), 0.0, attached.rate_scales())
    assert {g["rate_scale"]: len(g["params"]) for g in groups} == {1.0: 14, 16.0: 14}


def test_patterns_take_the_first_key_and_scale_follows_rank(tmp_path: Path) -> None:
    """Without an alpha the scale stays 2 at every rank, also in `peft`'s words."""
    config = LoraConfig(rank=4, rank_pattern={"mlp.down": 8, "mlp": 2})
    tuned("llama", config, tmp_path)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    name = "model.layers.0.mlp."
    assert values["rank_pattern"][name + "down_proj"] == 8
    assert values["rank_pattern"][name + "up_proj"] == 2
    assert values["alpha_pattern"][name + "down_proj"] == 16
    assert (values["r"], values["lora_alpha"]) == (4, 8)
    shapes = {k: tuple(t.shape) for k, t in load_file(tmp_path / "adapter_model.safetensors").items()}
    assert shapes["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"] == (8, 64)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("llama", {"rank_pattern": {"qproj": 2}}, "`qproj` matches no module"),
        ("llama", {"rank_pattern": {"mlp": 2}, "targets": "attention"}, "`mlp` matches none of the targets"),
        ("llama", {"rank_pattern": {"mlp.down": 33}}, "rank 33 is above the smaller side of 2 of 14"),
        ("llama", {"fused_parts": ("q",)}, "none of the 14 targets"),
        ("gpt2", {"targets": "wte", "init": "pissa"}, "is an embedding"),
        ("llama", {"rank": 5, "init": "orthogonal"}, "rank 5 is odd"),
        ("llama", {"rank": 20, "init": "lora_ga"}, "twice the rank"),
    ],
)
def test_refuses_and_leaves_the_model_alone(name: str, given: dict[str, Any], said: str) -> None:
    model = tiny(name)
    names = [n for n, _ in model.named_modules()]
    with pytest.raises(UserError, match=said) as caught:
        attach(model, LoraConfig(**given))
    assert caught.value.fix and caught.value.where.startswith("adapter.")
    assert [n for n, _ in model.named_modules()] == names


@pytest.mark.parametrize(
    "wrong",
    [
        {"init_options": {"iterations": 2}},
        {"init_options": {"batches": 2}, "init": "pissa"},
        {"init_options": {"rho": 2.0}},
        {"fused_parts": ("q",), "init": "pissa"},
        {"fused_parts": ("q", "q")},
        {"init": "eva", "init_options": {"rho": 2.0}, "rank_pattern": {"mlp": 2}},
        {"rank_pattern": {"mlp": 0}},
        {"init": "loftgq"},
    ],
)
def test_contradictions_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        build(LoraConfig, wrong)


def test_packed_weights_take_plain_lora_only() -> None:
    model = tiny("llama")
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings():
            module.weight = nn.Parameter(torch.zeros(32, 1, dtype=torch.uint8), requires_grad=False)
    for given in ({"dora": True}, {"init": "pissa"}):
        with pytest.raises(UserError, match="packed into few bits"):
            attach(model, LoraConfig(rank=4, **given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(rank=4, init="pissa"),
        LoraConfig(rank=4, init="orthogonal"),
        VeraConfig(rank=8),
        AdaloraConfig(rank=4, target_rank=2),
    ],
)
def test_fused_layers_compute_the_same(config: MethodConfig) -> None:
    """Packs through the fused layers of Llama and through its own: hidden states and gradients, to rounding."""
    found = []
    for fused in (False, True):
        model = tiny("llama")
        attached = attach(model, config)
        randomize(attached.trainable(), std=0.2)
        assert (fuse(model, projection_of) if fused else 2) == 2
        rows = [torch.arange(4, 11), torch.arange(30, 35)]
        hidden = ModelContext(model).hidden(packed(rows))
        hidden.pow(3).sum().backward()
        found.append((hidden.detach(), gradients(attached.trainable())))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-4, rtol=1e-4)
    assert_equal_gradients(found[1][1], found[0][1])
