"""Salience of matrices and ranks from it: by hand in float64, exactly under one number of parameters, and used ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from burnish.adapters.lora_config import LoraConfig
from burnish.cli.main import call
from burnish.core.errors import UserError
from burnish.models.anatomy import Site
from burnish.plan.importance import Salience, saliences, shares_of
from burnish.plan.ranks import GAINS, deal, patterned, plan_ranks, sites_of
from burnish.plan.sizes import parameters_of
from burnish.train.run import start_run
from burnish.train.used_ranks import used_ranks
from tests.support.recipes import configured, recipe
from tests.support.tiny import tiny


def test_salience_is_what_numpy_finds_in_float64() -> None:
    """The loss of row x is a^T W x, whose gradient is a x^T. Three rows: G = sum a_i x_i^T, the sensitivity is
    sum |G * W|, Fisher's sum is sum |a_i|^2 |x_i|^2, and the singular values are those of G."""
    draw = np.random.default_rng(0)
    W, a, x = draw.normal(size=(4, 3)), draw.normal(size=(3, 4)), draw.normal(size=(3, 3))
    host = nn.Linear(3, 4, bias=False, dtype=torch.float64)
    host.weight.data = torch.from_numpy(W.copy())
    host.weight.requires_grad_(False)
    site = Site("here", "mlp.up", host, 1)
    losses = (torch.from_numpy(a[i]) @ host(torch.from_numpy(x[i])) for i in range(3))
    found = saliences(nn.Sequential(host), [site], losses)[0]
    G = sum(np.outer(a[i], x[i]) for i in range(3))
    singular = np.linalg.svd(G, compute_uv=False)
    shares = singular / singular.sum()
    assert found.sensitivity == pytest.approx(np.abs(G * W).sum(), rel=1e-6)
    assert found.fisher == pytest.approx(sum((a[i] ** 2).sum() * (x[i] ** 2).sum() for i in range(3)), rel=1e-12)
    assert found.singular == pytest.approx(singular.tolist(), rel=1e-5)
    assert found.rank == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    assert not host.weight.requires_grad and host.weight.grad is None


def test_opposed_rows_cancel_in_the_sum_and_not_in_fishers() -> None:
    """Gradients 2 and -2 of a weight of 3: sensitivity 0, Fisher 8, no singular value, and no effective rank."""
    host = nn.Linear(1, 1, bias=False)
    host.weight.data.fill_(3.0)
    rows = (host(torch.tensor([value])).sum() for value in (2.0, -2.0))
    found = saliences(nn.Sequential(host), [Site("here", "mlp.up", host, None)], rows)[0]
    assert found.sensitivity == 0 and found.fisher == pytest.approx(8.0) and math.isnan(found.rank)


def salience(name: str, role: str, layer: int, sensitivity: float, fisher: float = 1.0, *singular: float) -> Salience:
    return Salience(name, role, layer, 10, sensitivity, fisher, singular or (1.0,))


def test_shares_by_layer_and_role() -> None:
    """Sensitivities 1 and 3 in layers 0 and 1, and 4 in layer 1 of another role: layers 1/8 and 7/8, roles 1/2 each."""
    found = [salience("a", "q", 0, 1.0), salience("b", "q", 1, 3.0), salience("c", "v", 1, 4.0)]
    assert {k: v[0] for k, v in shares_of(found, "layer").items()} == {"0": 0.125, "1": 0.875}
    assert {k: v[0] for k, v in shares_of(found, "role").items()} == {"q": 0.5, "v": 0.5}
    assert shares_of(found, "role")["q"][2] == pytest.approx(2 / 3)


def test_ranks_go_where_they_gain_most_for_their_parameters() -> None:
    """Masses 12 and 3 at one price: D'Hondt's quotients 12, 6, 4, 3 | 3, 1.5 give 4 and 1 of five ranks (of the equal
    quotients 3 the first matrix gets its fourth). At twice the price, 12 counts as 6."""
    by = {"a": lambda k: 12 / k, "b": lambda k: 3 / k}
    none, many = {"a": 0, "b": 0}, {"a": 9, "b": 9}
    assert deal(by, {"a": 10, "b": 10}, 50, none, many) == {"a": 4, "b": 1}
    assert deal(by, {"a": 20, "b": 10}, 50, none, many) == {"a": 2, "b": 1}
    assert deal(by, {"a": 10, "b": 10}, 50, {"a": 1, "b": 2}, {"a": 2, "b": 9}) == {"a": 2, "b": 3}
    falling = {"a": lambda k: (9.0, 1.0)[k - 1], "b": lambda k: (4.0, 3.0)[k - 1]}
    assert deal(falling, {"a": 1, "b": 1}, 3, none, {"a": 2, "b": 2}) == {"a": 1, "b": 2}


@pytest.mark.parametrize("by", GAINS)
@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_dealt_ranks_cost_what_the_uniform_one_does(by: str, name: str) -> None:
    """Within 2 %, counted from adapters that are built, with every rank between a quarter of 8 and 32; the matrix
    whose gradients are largest gets more than the uniform rank."""
    model, config = tiny(name), LoraConfig(rank=8)
    draw = np.random.default_rng(1)
    found = [
        Salience(s.name, str(s.role), s.layer, 1, float(m), float(m), tuple(sorted(m * draw.random(32), reverse=True)))
        for s, m in zip(sites_of(config, model), draw.lognormal(0, 1, 99), strict=False)
    ]
    plan = plan_ranks(config, model, found, by)
    assert plan.hit and plan.total == parameters_of(plan.suggested, model)
    assert abs(plan.total - parameters_of(config, model)) <= 0.02 * parameters_of(config, model)
    assert set(plan.ranks) == {one.name for one in found} and all(2 <= rank <= 32 for rank in plan.ranks.values())
    assert plan.ranks[max(found, key=lambda one: one.sensitivity / one.weights).name] >= 8
    wanted = plan_ranks(config, model, found, by, 2 * plan.uniform)
    assert wanted.hit and wanted.config.rank == 16


def test_a_fixed_alpha_follows_the_ranks() -> None:
    """Alpha 16 at rank 8 is a scale of 2, which stays at rank 4 with alpha 8; without an alpha it does so by itself."""
    model = tiny("llama")
    names = [site.name for site in sites_of(LoraConfig(), model)]
    fixed = patterned(LoraConfig(rank=8, alpha=16), {names[0]: 4, names[1]: 8})
    assert fixed.rank_pattern == {names[0]: 4} and fixed.alpha_pattern == {names[0]: 8.0}
    assert fixed.scale_at(4, 8.0) == fixed.scale_at(8) == 2.0
    assert not patterned(LoraConfig(rank=8), {names[0]: 4}).alpha_pattern


def test_what_cannot_be_dealt_is_refused() -> None:
    model, config = tiny("llama"), LoraConfig(rank=4)
    found = [salience(site.name, str(site.role), 0, 1.0) for site in sites_of(config, model)]
    with pytest.raises(UserError, match="below one rank for each of 14"):
        plan_ranks(config, model, found, "svd", 10)
    with pytest.raises(UserError, match="cannot be dealt by `sdv`") as caught:
        plan_ranks(config, model, found, "sdv")
    assert "svd" in caught.value.fix


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(folder)))
    return folder / "recipe.yaml"


def test_the_command_writes_settings_that_a_run_takes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file laid over the recipe trains as many parameters as rank 4, within 2 %, with the written ranks."""
    out = path.parent / "out"
    command = ["ranks", str(path), "--output", str(out), "--rows", "6"]
    assert call(command) == 0
    shown = capsys.readouterr().out
    assert "ranks, dealt by sensitivity" in shown and f"@{out / 'ranks.yaml'}" in shown and "within 2 %" in shown
    from burnish.api import load_recipe

    config = load_recipe(path, [f"@{out / 'ranks.yaml'}"])
    told = json.loads((out / "ranks.json").read_text())
    lora = config.adapters[0]
    assert lora.rank == 4 and lora.rank_pattern  # type: ignore[attr-defined]
    assert told["parameters"] == parameters_of(lora, tiny("llama")) and abs(told["error"]) <= 0.02
    assert call([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ranks"] == told["ranks"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "sdv"], "cannot be dealt"),
        (["adapter=full"], "ranks belong to `lora`"),
        (["@missing.yaml"], "does not exist"),
        (["--budget", "much"], "no number of parameters"),
    ],
)
def test_bad_input_is_one_message(
    path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["ranks", str(path), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_rank_that_a_run_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of every matrix, the effective rank of s B A, by numpy from the handed-over factors in float64; it is at most
    the rank that was given. The command says it, and refuses settings."""
    from burnish.adapters.attach import sets_of
    from burnish.train.handover import load_handed_over

    folder = start_run(configured(tmp_path, evaluate={"samples": 0})).folder
    found = {one.name: one for one in used_ranks(folder)}
    for item in sets_of(load_handed_over(folder).model)[0].placed:
        A, B = (f.detach().double().numpy() for f in item.adapter.factors())  # type: ignore[attr-defined]
        shares = np.linalg.svd(B @ A, compute_uv=False)[:4]
        shares = shares / shares.sum()
        used = found[item.site.name]
        assert used.used == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
        assert used.given == 4 and used.used <= 4 + 1e-9 and used.relative > 0
    assert len(found) == 14
    assert call(["ranks", str(folder)]) == 0
    assert "14 matrices changed" in capsys.readouterr().out
    assert call(["ranks", str(folder), "--budget", "1%"]) == 2
    assert "measured as it is" in capsys.readouterr().err


def test_the_rank_of_a_whole_model_that_was_trained(tmp_path: Path) -> None:
    """Full tuning gives no rank; every matrix changed in more directions than one."""
    config = configured(tmp_path, adapter={"method": "full"}, train={"learning_rate": 1e-3}, evaluate={"samples": 0})
    found = used_ranks(start_run(config).folder)
    matrices = [one for one in found if one.role.startswith(("attention", "mlp"))]
    assert len(matrices) == 14 and all(one.given is None and one.used and one.used > 1 for one in matrices)
