"""The loss of each head against PyTorch and by hand, and in every layout of a batch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from burnish.core.types import Batch
from burnish.ops import units

LENGTHS = (5, 3, 7)


def laid(padded: torch.Tensor) -> torch.Tensor:
    """Rows of LENGTHS end to end."""
    return torch.cat([row[:n] for row, n in zip(padded, LENGTHS, strict=True)])[None]


def test_spans_by_hand() -> None:
    """Context at 2 and 3 of four tokens, so three places count, 0 with them; with all logits 0 each end costs log 3."""
    batch = Batch(labels=torch.tensor([[2.0, 3.0, 2.0, 4.0, 0.0]]))
    losses, owners = units.span_units(torch.zeros(1, 4, 2), batch)
    assert losses.tolist() == pytest.approx([math.log(3)]) and owners.tolist() == [0]
    sure = torch.zeros(1, 4, 2)
    sure[0, 2, 0] = sure[0, 3, 1] = 100.0
    sure[0, 1] = 1e4  # the question cannot answer itself
    assert units.span_units(sure, batch)[0].tolist() == pytest.approx([0.0], abs=1e-6)


def test_spans_packed_as_padded() -> None:
    generator = torch.Generator().manual_seed(0)
    padded = torch.randn(3, 7, 2, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[2.0, 3, 2, 4, 0], [0, 0, 1, 2, 0], [3, 5, 2, 6, 4]])
    alone, _ = units.span_units(padded, Batch(labels=labels))
    packed, owners = units.span_units(laid(padded), Batch(labels=labels, segment_lengths=LENGTHS))
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-12)
    assert owners.tolist() == [0, 1, 2]


def test_tags_are_cross_entropies_of_their_tokens() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 3, generator=generator)
    labels = torch.tensor([[-100, 1, 2, -100], [0, -100, -100, -100]])
    segments = torch.tensor([[0, 0, 0, 0], [1, 1, 1, -1]])
    losses, owners = units.token_units(logits, Batch(labels=labels, segment_ids=segments))
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=-100)
    assert float(losses.sum()) == pytest.approx(float(expected)) and owners.tolist() == [0, 0, 1]


def test_several_classes_by_hand() -> None:
    """Logits 0 cost log 2 for each class whatever is true; a sure and right one costs nothing."""
    batch = Batch(labels=torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    losses, _ = units.several_units(torch.tensor([[0.0, 0.0], [-50.0, 50.0]]), batch)
    assert losses.tolist() == pytest.approx([math.log(2), 0.0])


def test_scores_by_hand() -> None:
    """Errors 3 and 0.5: squares 9 and 0.25; Huber 3 - 1/2 and 0.25 / 2."""
    batch = Batch(labels=torch.tensor([[1.0], [1.0]]))
    logits = torch.tensor([[4.0], [1.5]])
    assert units.squared_units(logits, batch)[0].tolist() == pytest.approx([9.0, 0.25])
    assert units.huber_units(logits, batch)[0].tolist() == pytest.approx([2.5, 0.125])


def test_pairs_by_hand() -> None:
    """Chosen 1 and 2, rejected 1 and 0: log 2, and log(1 + e^-2)."""
    losses, owners = units.pair_units(torch.tensor([[1.0], [2.0], [1.0], [0.0]]), Batch())
    assert losses.tolist() == pytest.approx([math.log(2), math.log1p(math.exp(-2))]) and owners.tolist() == [0, 1]
