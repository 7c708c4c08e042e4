"""The supervised loss, against that of `transformers`."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from burnish.adapters.attach import attach
from burnish.adapters.lora import LoraConfig
from burnish.core.types import Batch, Mean
from burnish.objectives.context import ModelContext
from burnish.objectives.sft import labelled_tokens, supervised_loss, supervised_terms, token_weights
from tests.support.tiny import tiny

IGNORED = -100


def rows(lengths: tuple[int, ...] = (9, 6), seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Random rows, and their labels in the way of `transformers`: the ids, with a prompt of three tokens ignored."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(4, 384, (n,), generator=generator) for n in lengths]
    labels = [torch.cat([torch.full((3,), IGNORED), row[3:]]) for row in ids]
    return ids, labels


def padded(ids: list[Tensor], labels: list[Tensor]) -> tuple[Batch, Tensor]:
    """A right-padded batch with labels aligned to hidden states, and the same labels unshifted."""
    width = max(map(len, ids))
    pad = torch.nn.functional.pad
    stacked = torch.stack([pad(row, (0, width - len(row))) for row in ids])
    unshifted = torch.stack([pad(row, (0, width - len(row)), value=IGNORED) for row in labels])
    mask = torch.stack([pad(torch.ones_like(row), (0, width - len(row))) for row in ids])
    aligned = pad(unshifted[:, 1:], (0, 1), value=IGNORED)
    return {"input_ids": stacked, "attention_mask": mask, "labels": aligned}, unshifted


def packed(ids: list[Tensor], labels: list[Tensor]) -> Batch:
    lengths = tuple(map(len, ids))
    aligned = torch.cat([torch.nn.functional.pad(row[1:], (0, 1), value=IGNORED) for row in labels])
    return {
        "input_ids": torch.cat(ids)[None],
        "labels": aligned[None],
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "segment_ids": torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None],
        "segment_lengths": lengths,
    }


def mean_loss(model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Mean]:
    (term,) = supervised_terms()
    context = ModelContext(model)  # type: ignore[arg-type]
    result = term.loss(batch, context)
    return result.total / term.count(batch), result.metrics["loss"]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_causal_loss_and_gradients_equal_transformers(name: str, layout: str) -> None:
    ours, theirs = tiny(name), tiny(name)
    ids, labels = rows()
    batch, unshifted = padded(ids, labels)
    oracle = theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=unshifted).loss
    loss, metric = mean_loss(ours, batch if layout == "padded" else packed(ids, labels))
    torch.testing.assert_close(loss, oracle, atol=1e-6, rtol=1e-6)
    assert metric.count == 6 + 3
    assert metric.value == pytest.approx(float(oracle.detach()), rel=1e-6)
    loss.backward()
    oracle.backward()
    for (label, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=label: f"{n}: {m}")


def test_encoder_decoder_loss_equals_transformers() -> None:
    """Labels of T5 are aligned with its decoder already; the decoder's input is them shifted right behind id 0."""
    ours, theirs = tiny("t5"), tiny("t5")
    ids, _ = rows((9, 6))
    targets, _ = rows((5, 4), seed=1)
    source, _ = padded(ids, ids)
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORED)
    shifted = torch.nn.functional.pad(labels[:, :-1].clamp(min=0), (1, 0), value=0)  # padding is id 0 too
    batch: Batch = {
        "input_ids": source["input_ids"],
        "attention_mask": source["attention_mask"],
        "decoder_input_ids": shifted,
        "labels": labels,
    }
    oracle = theirs(input_ids=source["input_ids"], attention_mask=source["attention_mask"], labels=labels).loss
    loss, _ = mean_loss(ours, batch)
    torch.testing.assert_close(loss, oracle, atol=1e-6, rtol=1e-6)
    loss.backward()
    oracle.backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_adapter_on_the_head_is_trained() -> None:
    """The chunked loss multiplies by the head's matrix itself; an adapter that hangs on it must not be passed over."""
    ours, theirs = tiny("llama"), tiny("llama")
    ids, labels = rows()
    batch, unshifted = padded(ids, labels)
    for model in (ours, theirs):
        attached = attach(model, LoraConfig(rank=4, targets=("lm_head", "q_proj")))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, p in attached.trainable():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
    oracle = theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=unshifted).loss
    loss, _ = mean_loss(ours, batch)
    torch.testing.assert_close(loss, oracle, atol=1e-6, rtol=1e-6)
    loss.backward()
    oracle.backward()
    for (label, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if mine.requires_grad:
            torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-4, msg=lambda m, n=label: f"{n}: {m}")


class Fixed:
    """A context whose token losses are given."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = torch.tensor(losses)

    def hidden(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def head(self) -> torch.nn.Module:
        raise NotImplementedError

    def token_losses(self, batch: Batch) -> Tensor:
        return self.losses


LABELS = torch.tensor([[5, IGNORED, 6], [IGNORED, 7, IGNORED]])


@pytest.mark.parametrize(
    ("weights", "total"),
    [
        (None, 1.0 + 2.0 + 4.0),
        (torch.tensor([[1.0, 9.0, 0.5], [9.0, 2.0, 9.0]]), 1.0 + 1.0 + 8.0),
        (torch.tensor([3.0, 0.0]), 3.0 + 6.0),
    ],
)
def test_weights_by_hand(weights: Tensor | None, total: float) -> None:
    """Losses 1, 2, 4 at (0, 0), (0, 2), (1, 1); the count stays 3, and the metric is the unweighted 7 / 3."""
    batch: Batch = {"input_ids": LABELS, "labels": LABELS}
    if weights is not None:
        batch["weights"] = weights
    result = supervised_loss(batch, Fixed([1.0, 2.0, 4.0]))
    assert float(result.total) == total
    assert result.metrics["loss"] == Mean(7.0, 3.0)
    assert int(labelled_tokens(batch)) == 3


def test_weights_of_packed_rows() -> None:
    """One weight per packed row; the batch dimension is 1."""
    batch: Batch = {
        "labels": torch.tensor([[1, IGNORED, 2, 3]]),
        "segment_ids": torch.tensor([[0, 0, 1, 1]]),
        "segment_lengths": (2, 2),
        "weights": torch.tensor([10.0, 1.0]),
    }
    assert token_weights(batch).tolist() == [10.0, 1.0, 1.0]
    batch["weights"] = torch.zeros(3)
    with pytest.raises(ValueError, match="fit neither"):
        token_weights(batch)


def test_no_label_at_all() -> None:
    """A micro-batch without labels adds 0 to the sum and 0 to the count, and its gradient is 0."""
    model = tiny("llama")
    ids, _ = rows()
    batch, _ = padded(ids, [torch.full_like(row, IGNORED) for row in ids])
    result = supervised_loss(batch, ModelContext(model))
    assert float(result.total.detach()) == 0.0
    assert result.metrics["loss"] == Mean(0.0, 0.0)
    assert math.isnan(result.metrics["loss"].value)
    result.total.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_one_forward_serves_all_terms() -> None:
    model = tiny("llama")
    calls: list[int] = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    batch, _ = padded(*rows())
    other, _ = padded(*rows(seed=1))
    context = ModelContext(model)
    assert context.token_losses(batch) is context.token_losses(batch)
    assert context.hidden(batch) is context.hidden(batch)
    context.hidden(other)
    assert len(calls) == 2
