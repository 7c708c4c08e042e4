"""The model as the terms see it: one forward per micro-batch, shared by all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from burnish.core.types import Batch
from burnish.models.forward import hidden_states
from burnish.models.head import Head, head_of

T = TypeVar("T")


class ModelContext:
    """A ``Context`` over one model; make a new one per micro-batch, so that its graph is freed with it.

    Args:
        model: A causal or encoder-decoder language model, with adapters or without.
        head: Its head, where the caller has it at hand; looked up otherwise.
    """

    def __init__(self, model: PreTrainedModel, head: Head | None = None) -> None:
        self.model = model
        self._head = head
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

    def _token_losses(self, batch: Batch) -> Tensor:
        hidden, labels = self.hidden(batch), batch["labels"]
        labelled = labels != -100
        return self.head().token_losses(hidden[labelled], labels[labelled])

    def _once(self, what: str, batch: Batch, compute: Callable[[], Tensor]) -> Tensor:
        key = (what, id(batch))
        if key not in self._memo:
            self._memo[key] = (batch, compute())  # holding the batch keeps its id from being given to another
        return self._memo[key][1]
