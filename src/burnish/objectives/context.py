"""The model as the terms see it: one forward per micro-batch, shared by all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from burnish.core.types import Batch
from burnish.models.classifier import Classifier, classify
from burnish.models.forward import hidden_states
from burnish.models.head import Head, head_of

T = TypeVar("T")


class ModelContext:
    """A ``Context`` over one model; make a new one per micro-batch, so that its graph is freed with it.

    Args:
        model: The model, with adapters or without.
        head: Its language-model head, where the caller has it at hand; looked up otherwise.
        classifier: The head of a classification, for a model without one of its own.
    """

    def __init__(self, model: PreTrainedModel, head: Head | None = None, classifier: Classifier | None = None) -> None:
        self.model = model
        self._head = head
        self._classifier = classifier
        self._memo: dict[tuple[str, int], tuple[Batch, Tensor]] = {}

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states before the head, [B, T, D] ([B, U, D] of the decoder for an encoder-decoder)."""
        return self._once("hidden", batch, lambda: hidden_states(self.model, batch))

    def head(self) -> Head:
        """The output projection, with what the model does to its hidden states and logits."""
        if self._head is None:
            self._head = head_of(self.model)
        return self._head

    def token_losses(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of every labelled position in nats, [N], in row-major order of ``labels``.

        Only labelled positions reach the head, and their logits exist a chunk at a time.
        """
        return self._once("token_losses", batch, lambda: self._token_losses(batch))

    def class_logits(self, batch: Batch) -> Tensor:
        """Logits of the classes of every row, [B, K], or of every token, [B, T, K], in fp32."""
        return self._once("class_logits", batch, lambda: self._class_logits(batch))

    def _class_logits(self, batch: Batch) -> Tensor:
        if self._classifier is None:
            raise ValueError("this model has no classification head")
        return classify(self.model, self._classifier, self.hidden(batch), batch)

    def _token_losses(self, batch: Batch) -> Tensor:
        hidden, labels = self.hidden(batch), batch["labels"]
        labelled = labels != -100
        return self.head().token_losses(hidden[labelled], labels[labelled])

    def _once(self, what: str, batch: Batch, compute: Callable[[], Tensor]) -> Tensor:
        key = (what, id(batch))
        if key not in self._memo:
            self._memo[key] = (batch, compute())  # holding the batch keeps its id from being given to another
        return self._memo[key][1]
