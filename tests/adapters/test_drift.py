"""How far training moved a matrix, from its factors, against the explicit change."""

from __future__ import annotations

import math

import pytest
import torch

from burnish.adapters.attach import attach
from burnish.adapters.drift import adapter_drift, by_layer, effective_rank, low_rank_change, weight_drift
from tests.adapters.variants import case
from tests.support.tiny import tiny


def test_effective_rank_by_hand() -> None:
    """Two equal values: 2. Shares 3/4 and 1/4: exp(3/4 log 4/3 + 1/4 log 4) = 1.7548."""
    assert effective_rank(torch.tensor([2.0, 2.0, 0.0])) == pytest.approx(2.0, abs=1e-12)
    expected = math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert effective_rank(torch.tensor([3.0, 1.0])) == pytest.approx(expected, abs=1e-12)


def test_factors_against_the_product() -> None:
    """Norm and effective rank of ``s B A`` in fp64, without building it."""
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(4, 20, generator=generator).double(), torch.randn(30, 4, generator=generator).double()
    product = 0.5 * B @ A
    square, rank = low_rank_change(A, B, 0.5)
    assert square == pytest.approx(float(product.square().sum()), rel=1e-12)
    assert rank == pytest.approx(effective_rank(torch.linalg.svdvals(product)), rel=1e-9)


@pytest.mark.parametrize("method", ["lora", "lora-dora", "lora-pissa", "adalora", "vera", "ia3", "norm"])
def test_drift_is_what_merging_changes(method: str) -> None:
    """Per layer, against the weights before and after `merge_`: fp32 norms agree to 1e-4; nothing is touched by it."""
    model = tiny("llama")
    attached = attach(model, case(method))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in attached.trainable():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    found = {one.name: one for one in adapter_drift(attached)}
    before = {s.name: [p.detach().clone() for p in s.host.parameters(False)] for s in attached.sites}
    hosts = {s.name: s.host for s in attached.sites}
    attached.merge_()
    assert found.keys() == before.keys()
    for name, old in before.items():
        new = [p.detach() for p in hosts[name].parameters(False)]
        change = sum(float((a - b).double().square().sum()) for a, b in zip(new, old, strict=True))
        weight = sum(float(a.double().square().sum()) for a in old)
        assert found[name].change == pytest.approx(change, rel=1e-3)
        assert found[name].weight == pytest.approx(weight, rel=1e-5)
        if found[name].rank is not None:
            singular = torch.linalg.svdvals((new[0] - old[0]).double())
            assert found[name].rank == pytest.approx(effective_rank(singular), rel=2e-2)


def test_whole_weights_by_layer() -> None:
    """||change|| / ||weight|| over all tensors of a layer: (3, 4) beside (6, 8) is 5 / 10."""
    before = {"a": torch.tensor([6.0, 0.0]), "b": torch.tensor([0.0, 8.0])}
    after = {"a": torch.tensor([9.0, 0.0]), "b": torch.tensor([0.0, 12.0])}
    layers = by_layer(list(weight_drift(before, after, {"a": 0, "b": 0})))
    assert layers == {0: {"relative": pytest.approx(0.5), "rank": None}}
