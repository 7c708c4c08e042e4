"""The head of a classification: hidden states to one vector a row, and that to the logits of K classes.

Shapes: B rows, T tokens, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.core.errors import UserError
from burnish.core.types import Batch
from burnish.models.forward import hidden_states
from burnish.ops.own_classes import own_logits

PoolingName = Literal["cls", "mean", "last", "pooler", "tokens"]
CLASSIFICATION = "classification"
_SEED_STREAM = 0x4EAD
INITIAL_SPREAD = 0.02
"""Standard deviation of a new head, as `transformers` draws its heads where a model does not say."""


class Classifier(nn.Module):
    """``logits = W dropout(pooled) + b``, in fp32 whatever the model computes in.

    It lies beside the model, not in it, so the model keeps its class and the names of its parameters.

    Attributes:
        class_tasks: The task of each class, where several tasks have classes of their own; rows then see those of
            their task only.
        temperature: What logits are divided by before they become probabilities (evaluate.calibration); the logits
            that are trained, compared and exported are without it.

    Args:
        labels: Names of the K classes.
        width: D.
        pooling: How a row becomes one vector.
        dropout: Dropout rate on that vector while training.
        bias: Whether there is a b. `transformers`' heads on decoders have none.
        generator: Draws W; zeros without one, for values that are loaded.
        spread: Standard deviation of W. The bias starts at zero.
        task: What its numbers mean, by the value of ``task.kind``.
        settings: What is needed besides them to answer, such as thresholds or the mean of a score; JSON values.
        class_tasks: The task of each class, where several have classes of their own.
    """

    def __init__(
        self,
        labels: Sequence[str],
        width: int,
        pooling: PoolingName,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        generator: torch.Generator | None = None,
        spread: float = INITIAL_SPREAD,
        task: str = CLASSIFICATION,
        settings: Mapping[str, Any] | None = None,
        class_tasks: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.task, self.settings, self.class_tasks = task, dict(settings or {}), tuple(class_tasks)
        self.labels, self.pooling, self.dropout = tuple(labels), pooling, dropout
        self.temperature = 1.0
        weight = torch.zeros(len(labels), width)
        if generator is not None:
            weight.normal_(0.0, spread, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(len(labels))) if bias else None

    def forward(self, pooled_BD: Tensor, training: bool = False) -> Tensor:
        """Logits [..., K] of vectors [..., D]; dropout follows the caller's mode, since the head has none."""
        pooled = pooled_BD.to(self.weight.dtype)
        if self.dropout:
            pooled = F.dropout(pooled, self.dropout, training)
        return F.linear(pooled, self.weight, self.bias)

    def named(self) -> list[tuple[str, nn.Parameter]]:
        """Its parameters, by the names under which a run trains, keeps and checks them."""
        return [(f"classifier.{name}", parameter) for name, parameter in self.named_parameters()]


def new_classifier(
    model: PreTrainedModel,
    labels: Sequence[str],
    pooling: PoolingName,
    *,
    dropout: float,
    bias: bool,
    seed: int,
    task: str = CLASSIFICATION,
    settings: Mapping[str, Any] | None = None,
    class_tasks: Sequence[str] = (),
) -> Classifier:
    """A head with fresh values, the same for the same seed, on the model's device.

    Raises:
        UserError: The pooling is the model's own pooler, and its files hold none.
    """
    refuse_missing_pooler(model, pooling)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + _SEED_STREAM)
    spread = float(getattr(model.config, "initializer_range", None) or INITIAL_SPREAD)
    made = Classifier(
        labels,
        model.config.get_text_config().hidden_size,
        pooling,
        dropout=dropout,
        bias=bias,
        generator=generator,
        spread=spread,
        task=task,
        settings=settings,
        class_tasks=class_tasks,
    )
    return made.to(model.device)


def drop_idle_pooler(model: PreTrainedModel, pooling: PoolingName) -> None:
    """Leave out a pooler that nothing reads, before all weights are tuned: it would never have a gradient."""
    if pooling != "pooler" and getattr(model, "pooler", None) is not None:
        model.pooler = None


def refuse_missing_pooler(model: PreTrainedModel, pooling: PoolingName) -> None:
    """Refuse ``pooler`` where the model has none that its files hold.

    Raises:
        UserError: There is none.
    """
    if pooling == "pooler" and getattr(model, "pooler", None) is None:
        raise UserError(
            f"the files of this {model.config.model_type} model hold no pooler, and a new one would be random",
            where="task.pooling",
            fix="use `task.pooling: cls` or `mean`",
        )


def class_logits(model: PreTrainedModel, classifier: Classifier, batch: Batch) -> Tensor:
    """Logits of every row's classes, [B, K], or every token's, [B, T, K], in fp32 (fp64 for a model in fp64)."""
    return classify(model, classifier, hidden_states(model, batch), batch)


def classify(model: PreTrainedModel, classifier: Classifier, hidden_BTD: Tensor, batch: Batch) -> Tensor:
    """Logits [B, K] (or [B, T, K]) from hidden states; pooling and head run in fp32 also under autocast.

    Where tasks have classes of their own, rows that name their task in the batch have no chance of another's; of rows
    that do not, the logits of all classes are given.
    """
    pooled = pool(model, hidden_BTD, batch, classifier.pooling)
    with torch.autocast(hidden_BTD.device.type, enabled=False):
        logits = classifier(pooled, model.training)
        if classifier.class_tasks and "tasks" in batch:
            return own_logits(logits, classifier.class_tasks, batch["tasks"])
        return logits


def pool(model: PreTrainedModel, hidden_BTD: Tensor, batch: Batch, how: PoolingName) -> Tensor:
    """One vector for each row, [B, D], of any layout.

    ``cls`` takes the first token, ``last`` the last real one, ``mean`` the average of the real ones (special tokens
    included, as sentence-transformers does), ``pooler`` the model's own dense layer with tanh on the first token.
    ``tokens`` leaves all of them, [B, T, D].

    Args:
        model: The model, for its pooler.
        hidden_BTD: Hidden states; of a packed batch [1, T, D], and B is then the number of packed rows.
        batch: What they were made of.
        how: The name.
    """
    if how == "pooler":
        return model.pooler(_first(hidden_BTD, batch)[:, None])
    with torch.autocast(hidden_BTD.device.type, enabled=False):
        return POOLING[how](hidden_BTD, batch)


def _ends(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """[B] starts and ends of the rows of a pack."""
    lengths = torch.tensor(batch["segment_lengths"], device=device)
    ends = lengths.cumsum(0)
    return ends - lengths, ends


def _real_lengths(hidden: Tensor, batch: Batch) -> Tensor:
    """[B] real tokens of each padded row."""
    if "attention_mask" in batch:
        return batch["attention_mask"].sum(1)
    return torch.full((hidden.shape[0],), hidden.shape[1], device=hidden.device)


def _first(hidden: Tensor, batch: Batch) -> Tensor:
    if "segment_lengths" in batch:
        return hidden[0, _ends(batch, hidden.device)[0]]
    return hidden[:, 0]


def _last(hidden: Tensor, batch: Batch) -> Tensor:
    if "segment_lengths" in batch:
        return hidden[0, _ends(batch, hidden.device)[1] - 1]
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, _real_lengths(hidden, batch) - 1]


def _mean(hidden: Tensor, batch: Batch) -> Tensor:
    """Averages as one product with a [B, T] matrix of shares, so that the order of the sums is fixed on any device."""
    exact = hidden if hidden.dtype == torch.float64 else hidden.float()
    if "segment_lengths" in batch:
        starts, ends = _ends(batch, hidden.device)
        places = torch.arange(hidden.shape[1], device=hidden.device)
        inside = (places >= starts[:, None]) & (places < ends[:, None])
        return (inside / (ends - starts)[:, None]).to(exact.dtype) @ exact[0]
    lengths = _real_lengths(hidden, batch)
    shares = (torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]) / lengths[:, None]
    return torch.bmm(shares.to(exact.dtype)[:, None], exact)[:, 0]


def _all(hidden: Tensor, batch: Batch) -> Tensor:
    return hidden


POOLING: Mapping[str, Callable[[Tensor, Batch], Tensor]] = {
    "cls": _first,
    "last": _last,
    "mean": _mean,
    "tokens": _all,
}


def describe(classifier: Classifier) -> dict[str, Any]:
    """The head as JSON values."""
    return {
        "task": classifier.task,
        "labels": list(classifier.labels),
        "pooling": classifier.pooling,
        "dropout": classifier.dropout,
        "bias": classifier.bias is not None,
        "temperature": classifier.temperature,
        "width": classifier.weight.shape[1],
        "settings": classifier.settings,
        **({"class_tasks": list(classifier.class_tasks)} if classifier.class_tasks else {}),
        "parameters": sum(p.numel() for p in classifier.parameters()),
    }
