"""The ceiling of the products: what is recorded of a pass, and how many operations that is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


def test_products_are_recorded_with_the_weights_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of 5 rows from 4 to 3 numbers and the gradients of weight and input: 2 * 5 * 4 * 3 = 120 operations each.
    The weight is kept as it lies; what else a product reads has a stand-in of the same form, one for each form."""
    monkeypatch.syspath_prepend(str(BENCH))
    import ceiling

    weight = torch.nn.Parameter(torch.randn(3, 4))
    recorder = ceiling.Recorder({weight.untyped_storage().data_ptr()})
    x = torch.randn(5, 4, requires_grad=True)
    with recorder:
        torch.nn.functional.linear(x, weight).sum().backward()
    assert [ceiling.work(args) for _, args, _ in recorder.products] == [120, 120, 120]
    read = [value for _, args, _ in recorder.products for value in args if isinstance(value, torch.Tensor)]
    own = [value for value in read if value.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()]
    assert len(own) == 2 and not any(value.requires_grad for value in read)
    assert not any(value.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for value in read)
    assert len(recorder.stand_ins) == len({(v.shape, v.stride()) for v in read if not any(v is o for o in own)})
    assert ceiling.replayed(recorder.products) > 0
