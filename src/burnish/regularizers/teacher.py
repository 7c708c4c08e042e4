"""The model as it was before training: the same one with its adapters switched off, or a frozen copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from burnish.core.types import Batch
from burnish.models.classifier import PoolingName, pool
from burnish.models.forward import hidden_states
from burnish.models.head import Head, head_of
from burnish.models.modes import in_evaluation
from burnish.models.route import switch_of


@dataclass(frozen=True)
class Teacher:
    """The original model: adapters are switched off while it computes, without dropout and without a gradient.

    Attributes:
        model: The model that is trained, or a copy of it.
        head: Its language-model head, or None.
    """

    model: PreTrainedModel
    head: Head | None

    @classmethod
    def of(cls, model: PreTrainedModel, head: Head | None, *, own: bool) -> Teacher:
        """The model as it is now.

        Args:
            model: The model that will be trained.
            head: Its language-model head.
            own: Copy it, which a model needs whose own weights are trained.
        """
        if not own:
            return cls(model, head)
        other = copy.deepcopy(model).eval().requires_grad_(False)
        return cls(other, head_of(other) if head is not None else None)

    @torch.no_grad()
    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states before the head, [B, T, D]."""
        with self.original(), in_evaluation(self.model):
            return hidden_states(self.model, batch)

    @torch.no_grad()
    def pooled(self, batch: Batch, how: PoolingName) -> Tensor:
        """One vector for each row, [B, D], or for each token, [B, T, D]."""
        with self.original(), in_evaluation(self.model):
            return pool(self.model, hidden_states(self.model, batch), batch, how)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [C, V] of a few hidden states [C, D]."""
        assert self.head is not None
        with self.original():
            weight = self.head.weight
            return self.head(hidden if weight.dtype == hidden.dtype else hidden.to(weight.dtype))

    @contextmanager
    def original(self) -> Iterator[None]:
        """The adapters switched off, and everything as it was when the context ends, a route in use included."""
        switch = switch_of(self.model)
        if switch is None:
            yield
            return
        before = switch.active, switch.task, switch.route
        switch.active, switch.task, switch.route = (), None, None
        try:
            yield
        finally:
            switch.active, switch.task, switch.route = before
