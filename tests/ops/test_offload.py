"""Activations that wait in the host's memory: the same gradients, and only what is large is moved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from burnish.models.recompute import checkpoint_activations
from burnish.ops.offload import Offload
from tests.support.tiny import tiny, tiny_inputs


def gradients(model: torch.nn.Module, context: object, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with context:  # type: ignore[attr-defined]
        loss = model(**inputs).logits.float().square().mean()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_are_those_without_it(checkpointed: bool) -> None:
    """On a processor a copy to the host is a copy; every number stays as it was, so they are equal to the bit."""
    model, inputs = tiny("llama").train(), tiny_inputs("llama")
    if checkpointed:
        checkpoint_activations(model)
    plain = gradients(model, torch.enable_grad(), inputs)
    moved = gradients(model, Offload([*model.parameters(), *model.buffers()], large=1, pin=False), inputs)
    assert plain.keys() == moved.keys()
    for name, gradient in plain.items():
        assert torch.equal(moved[name], gradient), name


def test_weights_and_small_tensors_stay() -> None:
    """Of a product's two factors the weight is saved as it is, and so is an activation below the limit."""
    weight, small, large = torch.randn(64, 64, requires_grad=True), torch.randn(1, 64), torch.randn(100, 64)
    hooks = Offload([weight], large=large.nbytes, pin=False)
    for activation, stays in ((small, True), (large, False)):
        with hooks:
            output = torch.nn.functional.linear(activation.requires_grad_(), weight)
        saved = [output.grad_fn._saved_self, output.grad_fn._saved_mat2]  # type: ignore[union-attr]
        places = {tensor.untyped_storage().data_ptr() for tensor in saved}
        assert weight.untyped_storage().data_ptr() in places
        assert (activation.untyped_storage().data_ptr() in places) == stays
