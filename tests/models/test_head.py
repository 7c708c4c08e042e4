"""The head against the model's own logits and loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from burnish.core.errors import UserError
from burnish.core.types import Batch
from burnish.models.forward import hidden_states
from burnish.models.head import HEAD_SCALE, head_of, verify_head
from tests.models.architectures import CAUSAL, CONFIGS, SEQ2SEQ, build, ids


def batch_for(name: str) -> Batch:
    batch: Batch = {"input_ids": ids(7)}
    if name in SEQ2SEQ:
        batch["decoder_input_ids"] = ids(5, 1)
    return batch


@pytest.mark.parametrize("name", CONFIGS)
def test_head_of_hidden_states_is_the_models_logits(name: str) -> None:
    """Also where the model scales, caps or shifts them: Gemma 2, Cohere, Granite, tied T5, BART's bias."""
    model = build(name)
    if name in ("bart", "marian"):
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(0))
    verify_head(model)
    batch = batch_for(name)
    with torch.no_grad():
        found = head_of(model)(hidden_states(model, batch))
        expected = model(**batch).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in CAUSAL if n != "bloom"])
def test_the_mean_of_the_losses_is_the_librarys_loss(name: str) -> None:
    """`transformers` shifts inside: its loss for labels = ids is the mean over positions t of -log p(id[t+1])."""
    model = build(name)
    row = ids(9)
    with torch.no_grad():
        hidden = hidden_states(model, {"input_ids": row})[0, :-1]
        losses = head_of(model).token_losses(hidden, row[0, 1:])
        expected = model(input_ids=row, labels=row).loss
    torch.testing.assert_close(losses.mean(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_the_loss_of_a_decoder_is_the_librarys(name: str) -> None:
    model = build(name)
    if name in ("bart", "marian"):
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(0))
    batch, labels = batch_for(name), ids(5, 2)
    with torch.no_grad():
        losses = head_of(model).token_losses(hidden_states(model, batch)[0], labels[0])
        expected = model(**batch, labels=labels).loss
    torch.testing.assert_close(losses.mean(), expected, rtol=1e-5, atol=1e-5)


def test_the_known_scales() -> None:
    """T5 with tied embeddings divides by sqrt(32), Cohere multiplies by 0.3, Granite divides by 3."""
    assert head_of(build("t5")).scale == pytest.approx(32**-0.5)
    assert head_of(build("t5-v1.1")).scale == 1.0
    assert head_of(build("cohere")).scale == pytest.approx(0.3)
    assert head_of(build("granite")).scale == pytest.approx(1 / 3)
    assert head_of(build("gemma2")).softcap == 3.0


def test_an_unknown_scale_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("cohere")
    monkeypatch.delitem(HEAD_SCALE, "cohere")  # type: ignore[misc]
    with pytest.raises(UserError, match="cohere"):
        verify_head(model)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(UserError, match="no output projection"):
        head_of(build("llama").model)


class _Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.linspace(-1, 1, 97))


def test_an_adapted_head_is_called_and_not_read() -> None:
    """A hook on the projection adds a trained shift; its effect and its gradient are in the losses."""
    model = build("llama")
    projection = model.get_output_embeddings()
    assert projection is not None
    adapter = _Shifted()
    projection.add_module("adapters", adapter)
    projection.register_forward_hook(lambda module, args, output: output + adapter.shift)
    hidden = torch.randn(6, 32, requires_grad=True)
    labels = ids(6)[0]
    losses = head_of(model).token_losses(hidden, labels)
    expected = F.cross_entropy(F.linear(hidden, projection.weight) + adapter.shift, labels, reduction="none")
    torch.testing.assert_close(losses, expected)
    wanted: tuple[Tensor, ...] = torch.autograd.grad(expected.sum(), [hidden, adapter.shift])
    for found, gradient in zip(torch.autograd.grad(losses.sum(), [hidden, adapter.shift]), wanted, strict=True):
        torch.testing.assert_close(found, gradient)


def test_the_head_trains_the_models_own_weight() -> None:
    model = build("llama")
    head = head_of(model)
    assert head.weight is model.lm_head.weight
    losses = head.token_losses(torch.randn(4, 32), ids(4)[0])
    losses.sum().backward()
    assert model.lm_head.weight.grad is not None
