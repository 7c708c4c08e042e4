"""The objective of a classification against PyTorch's own, `transformers`' classes and arithmetic by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from transformers import (
    BertForSequenceClassification,
    GPT2ForSequenceClassification,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from burnish.core.types import Batch
from burnish.models.classifier import Classifier
from burnish.objectives.classification import balanced_weights, classification_terms
from burnish.objectives.context import ModelContext
from tests.support.tiny import tiny

LABELS = ("a", "b", "c")
CLASSES = {
    "bert": BertForSequenceClassification,
    "gpt2": GPT2ForSequenceClassification,
    "llama": LlamaForSequenceClassification,
}


class Fixed:
    """A context whose logits are given."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def class_logits(self, batch: Batch) -> torch.Tensor:
        return self.logits

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def value(logits: torch.Tensor, labels: list[int], **options: Any) -> tuple[float, torch.Tensor, float]:
    """Loss, its gradient and the metric, divided by the count."""
    logits = logits.clone().requires_grad_()
    (term,) = classification_terms(**options)
    batch: Batch = {"labels": torch.tensor(labels)}
    loss = term.loss(batch, Fixed(logits))  # type: ignore[arg-type]
    mean = loss.total / term.count(batch)
    mean.backward()
    assert logits.grad is not None
    return float(mean.detach()), logits.grad, loss.metrics["loss"].value


def test_by_hand() -> None:
    """Logits (log 2, 0, 0): p = (1/2, 1/4, 1/4). Classes 0 and 1 cost log 2 and log 4: the mean is 1.5 log 2.

    Smoothing by 0.3 costs 0.7 (-log p_y) + 0.1 (log 2 + 2 log 4) = 0.7 (-log p_y) + 0.5 log 2. Focal loss with gamma 2
    weighs by (1/2)^2 and (3/4)^2. The metric stays the plain mean.
    """
    logits = torch.tensor([[math.log(2), 0.0, 0.0]] * 2)
    plain, _, metric = value(logits, [0, 1])
    assert plain == pytest.approx(1.5 * math.log(2)) == pytest.approx(metric)
    smooth, _, metric = value(logits, [0, 1], label_smoothing=0.3)
    assert smooth == pytest.approx((0.7 * 1.5 + 0.5) * math.log(2)) and metric == pytest.approx(1.5 * math.log(2))
    focal, _, metric = value(logits, [0, 1], focal_gamma=2.0)
    assert focal == pytest.approx((math.log(2) / 4 + math.log(4) * 9 / 16) / 2)
    assert metric == pytest.approx(1.5 * math.log(2))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_gradient_are_pytorchs(smoothing: float) -> None:
    """In fp32 to 1e-6, for random logits; both are the same function of them."""
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 4) * 3, torch.randint(0, 4, (7,))
    mine, gradient, _ = value(logits, labels.tolist(), label_smoothing=smoothing)
    reference = logits.clone().requires_grad_()
    loss = F.cross_entropy(reference, labels, label_smoothing=smoothing)
    loss.backward()
    assert mine == pytest.approx(float(loss.detach()), rel=1e-6)
    torch.testing.assert_close(gradient, reference.grad, rtol=1e-5, atol=1e-7)


def test_balanced_weights_are_scikit_learns_and_have_the_mean_one() -> None:
    """Over the rows the weights add up to the number of rows: sum_k n_k N / (K n_k) = N, so the count stays N."""
    labels = np.asarray([0] * 7 + [1] * 2 + [2] * 3)
    weights = balanced_weights(labels, 3)
    assert weights == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=labels).tolist())
    assert sum(weights[y] for y in labels) == pytest.approx(len(labels))
    torch.manual_seed(0)
    logits = torch.randn(12, 3)
    mine, _, _ = value(logits, labels.tolist(), class_weights=weights)
    theirs = F.cross_entropy(logits, torch.tensor(labels), weight=torch.tensor(weights))  # divides by their sum, N
    assert mine == pytest.approx(float(theirs), rel=1e-5)


def theirs_and_ours(name: str) -> tuple[PreTrainedModel, PreTrainedModel, Classifier]:
    """A class of `transformers` with random weights, and its backbone with a head of ours with the same numbers."""
    config = tiny(name).config
    config.num_labels, config.pad_token_id = 3, 0
    torch.manual_seed(0)
    theirs = CLASSES[name](config).eval()
    linear = theirs.classifier if name == "bert" else theirs.score
    with torch.no_grad():
        linear.weight.normal_()
    head = Classifier(LABELS, config.hidden_size, "pooler" if name == "bert" else "last", bias=linear.bias is not None)
    head.load_state_dict(linear.state_dict())
    return theirs, theirs.base_model, head


@pytest.mark.parametrize("name", CLASSES)
def test_loss_and_gradients_are_those_of_transformers(name: str) -> None:
    """Loss of its own class and gradient of every weight, to 1e-5 of the largest number (fp32), two rows padded."""
    theirs, backbone, head = theirs_and_ours(name)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 384, (4, 9), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, 5:], mask[1, 5:], ids[2, 7:], mask[2, 7:] = 0, 0, 0, 0
    labels = torch.tensor([0, 2, 1, 2])
    loss = theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    expected = {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}
    linear = (theirs.classifier if name == "bert" else theirs.score).weight.grad.clone()
    theirs.zero_grad()
    (term,) = classification_terms()
    batch: Batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    own = term.loss(batch, ModelContext(backbone, classifier=head)).total / term.count(batch)
    own.backward()
    assert float(own.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    found = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for key, gradient in [*expected.items(), ("head", linear)]:
        mine = head.weight.grad if key == "head" else found[key]
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(mine / scale, gradient / scale, rtol=0, atol=1e-5, msg=key)  # type: ignore[operator]
