"""The output projection of a model, with whatever it does to hidden states and logits. Shapes: N, D, V."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from burnish.core.errors import UserError
from burnish.core.types import Batch
from burnish.models.eight_bits import eight_bits_of
from burnish.models.forward import hidden_states
from burnish.models.probe import probe_ids, probing, tolerance
from burnish.ops.cross_entropy import IGNORE, chunk_rows, chunked_token_losses
from burnish.ops.kl import Judge, Output, chunked_divergences, divergences_of_logits


def _tied_t5(config: Any) -> float:
    return config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", config.tie_word_embeddings) else 1.0


def _divided(config: Any) -> float:
    return 1.0 / config.logits_scaling


# What the model multiplies its hidden states or, the same thing for a head without bias, its logits by.
HEAD_SCALE: Mapping[str, Callable[[Any], float]] = {
    "cohere": lambda c: c.logit_scale,
    "cohere2": lambda c: c.logit_scale,
    "falcon_h1": lambda c: c.lm_head_multiplier,
    "granite": _divided,
    "granitemoe": _divided,
    "granitemoehybrid": _divided,
    "granitemoeshared": _divided,
    "hyperclovax": lambda c: c.logits_scaling,
    "longt5": _tied_t5,
    "minicpm3": _divided,
    "switch_transformers": _tied_t5,
    "t5": _tied_t5,
    "umt5": _tied_t5,
}


class Head(nn.Module):
    """Hidden states to logits as the model does it: ``cap(scale * h W^T + b)``.

    It holds the model's own projection, not a copy: what trains there trains here.

    Attributes:
        projection: The model's output module.
        scale: Factor on the hidden states.
        softcap: The cap on the logits, or None.
    """

    def __init__(self, model: PreTrainedModel, projection: nn.Module, scale: float, softcap: float | None) -> None:
        super().__init__()
        self.projection = projection
        self.scale, self.softcap = scale, softcap
        self._model = (model,)  # in a tuple, so that the whole model does not become a part of its head

    @property
    def weight(self) -> Tensor:
        """[V, D], the parameter itself."""
        return self.projection.get_parameter("weight")

    @property
    def bias(self) -> Tensor | None:
        """[V], or None; BART and its relatives add a buffer to the logits."""
        own = getattr(self.projection, "bias", None)
        extra = getattr(self._model[0], "final_logits_bias", None)
        if extra is None:
            return own
        return extra[0] if own is None else own + extra[0]

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]; for a few positions only, as all of them are made at once."""
        logits = self.projection(hidden if self.scale == 1.0 else hidden * self.scale)
        extra = getattr(self._model[0], "final_logits_bias", None)
        if extra is not None:
            logits = logits + extra[0]
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def token_losses(self, hidden_ND: Tensor, labels_N: Tensor) -> Tensor:
        """Negative log-likelihood [N] of labels under hidden states [N, D], never holding [N, V] logits.

        A projection that is more than a matrix, because an adapter hangs on it or its weight is packed into few bits,
        is called chunk by chunk under activation checkpointing instead; the values are the same.
        """
        if self.is_plain():
            return chunked_token_losses(
                hidden_ND,
                self.weight,
                labels_N,
                self.bias,
                hidden_scale=self.scale,
                logit_softcap=self.softcap,
                eight=eight_bits_of(self.projection),
            )
        return torch.cat(list(self._checkpointed_losses(hidden_ND, labels_N)))

    def divergences(self, hidden_ND: Tensor, judge: Judge, temperature: float = 1.0) -> Tensor:
        """Divergence [N] from what the judge knows, never holding [N, V] logits (``ops.kl``)."""
        if self.is_plain():
            output = Output(self.weight, self.bias, self.scale, self.softcap)
            return chunked_divergences(hidden_ND, output, judge, temperature=temperature)
        rows, found = self.chunk_rows(hidden_ND.device), []
        for start in range(0, max(1, len(hidden_ND)), rows):
            part = slice(start, start + rows)
            found.append(checkpoint(self._judged, hidden_ND[part], judge, part, temperature, use_reentrant=False))
        return torch.cat(found)

    def _judged(self, hidden: Tensor, judge: Judge, part: slice, temperature: float) -> Tensor:
        return divergences_of_logits(self(hidden), judge, part, temperature)

    def chunk_rows(self, device: torch.device) -> int:
        """How many positions make one chunk of logits."""
        return chunk_rows(torch.empty(self._model[0].config.get_text_config().vocab_size, 0, device=device))

    def is_plain(self) -> bool:
        """Whether the projection is a matrix and nothing more."""
        module = self.projection
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        return type(module) is nn.Linear and not any(hooks) and not any(True for _ in module.children())

    def _checkpointed_losses(self, hidden_ND: Tensor, labels_N: Tensor) -> Iterator[Tensor]:
        rows = self.chunk_rows(hidden_ND.device)
        for hidden, labels in zip(hidden_ND.split(rows), labels_N.split(rows), strict=True):
            yield checkpoint(self._losses, hidden, labels, use_reentrant=False)

    def _losses(self, hidden: Tensor, labels: Tensor) -> Tensor:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        return nn.functional.cross_entropy(self(hidden).to(dtype), labels, reduction="none", ignore_index=IGNORE)


def head_of(model: PreTrainedModel) -> Head:
    """The head of a causal or encoder-decoder language model.

    Raises:
        UserError: The model has no output projection.
    """
    projection = model.get_output_embeddings()
    if projection is None:
        raise UserError(
            f"{type(model).__name__} has no output projection, so it cannot be trained to predict tokens",
            where=model.config.model_type,
            fix="name a causal or sequence-to-sequence language model",
        )
    config = model.config.get_text_config()
    scale = HEAD_SCALE.get(model.config.model_type, lambda c: 1.0)(config)
    inner = getattr(config, "decoder", None)
    softcap = getattr(config, "final_logit_softcapping", None) or getattr(inner, "final_logit_softcapping", None)
    return Head(model, projection, float(scale), softcap)


def verify_head(model: PreTrainedModel) -> None:
    """Hold ``Head(hidden)`` against the model's own logits on a few tokens.

    Raises:
        UserError: They differ: this architecture does something to its logits that Burnish does not know of.
    """
    head = head_of(model)
    ids = probe_ids(model, 6)
    batch: Batch = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids[:, :4]
    with probing(model):
        own = head(hidden_states(model, batch)).double()
        true = model(**batch, use_cache=False).logits.double()
    error = (own - true).abs().max()
    # A wrong scale would keep the order of the logits, so the values themselves are compared; NaN fails.
    if own.shape != true.shape or not bool(error <= tolerance(true, model)):
        raise UserError(
            f"the logits of `{model.config.model_type}` are not its head applied to its hidden states "
            f"(they differ by {float(error):.3g}), so its loss would be wrong",
            where=type(model).__name__,
            fix="add the architecture's scale to HEAD_SCALE in burnish/models/head.py",
        )
