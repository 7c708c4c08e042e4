"""Distillation from the original model: what it would say of the same rows (Hinton et al., 2015, arXiv:1503.02531).

Shapes: N positions, B rows, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from burnish.core.errors import UserError
from burnish.core.types import Batch, Context, Loss, Mean, Term
from burnish.models.classifier import pool
from burnish.models.head import Head
from burnish.ops.kl import DivergenceName, dense, sparse
from burnish.regularizers.base import Made, RegularizerConfig, Subject, megabytes, note, regularizer
from burnish.regularizers.cache import Cache
from burnish.regularizers.general import General
from burnish.regularizers.places import places, vectors
from burnish.regularizers.teacher import Teacher

GENERAL = "distill_general"
"""Name of the term over general texts, and of the source of its micro-batches."""

Distance = Literal["mse", "cosine"]
OF_LOGITS, OF_STATES = ("divergence", "temperature", "positions", "cache", "top_k"), ("distance",)


class DistillConfig(RegularizerConfig):
    """Keep what the model says near what the original one says of the same rows (Hinton et al., 2015).

    A model that writes is held by its next-token distributions; with a new head, which the original model does not
    have, by the vectors that the head reads. With adapters the original is the same model with them switched off; where
    the base's own weights are trained, a frozen copy of it, or a `cache` on disk.
    """

    kind: Literal["distill"] = "distill"
    """The name of the regularizer."""
    on: Literal["task", "general", "both"] = "general"
    """Which rows: general texts, which hold the model where the task's rows do not reach; the task's own, which cost no
    further forward pass with gradients, but pull against what is learnt there; or both, a term each."""
    divergence: DivergenceName = "forward"
    """`forward`: KL(original, tuned), which wants all that the original finds likely; `reverse`: KL(tuned, original),
    which wants nothing else; `js`: Jensen-Shannon, between both."""
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Logits of both are divided by it, and the term is multiplied by its square."""
    positions: Literal["trained", "all"] = "trained"
    """Where on the task's rows: tokens that predict a trained one, or all of them."""
    distance: Distance = "mse"
    """With a new head: the mean squared difference of the vectors that it reads, or one minus their cosine."""
    data: str | None = None
    """General texts: a text file with an empty line between texts, or JSONL rows with a field `text`. Without it those
    that come with Burnish. A file that the run is measured on is refused."""
    rows: int = Field(1, ge=1)
    """General texts of each update."""
    max_length: int = Field(128, ge=2)
    """Tokens after which a general text is cut."""
    cache: str | None = None
    """Folder for what the original model says of the training rows, made once ahead of training; then neither a copy of
    it nor its forward pass is needed. Only for `on: task` of a model that writes."""
    top_k: int = Field(64, ge=1)
    """Tokens of each position in the cache; the probability of all others is kept as one number."""

    @model_validator(mode="after")
    def _sensible(self) -> DistillConfig:
        if self.cache is not None and self.on != "task":
            raise ValueError("`cache` holds the task's rows only: use `on: task` with it, or leave it out")
        if self.changed("top_k") and self.cache is None:
            raise ValueError("`top_k` belongs to `cache`; without one whole distributions are compared")
        if self.on == "general" and self.changed("positions"):
            raise ValueError("`positions` is for the task's rows: use `on: task` or `on: both`")
        if self.on == "task" and self.changed("data", "rows", "max_length"):
            raise ValueError("`data`, `rows` and `max_length` are for general texts: use `on: general` or `on: both`")
        return self


@regularizer("distill", DistillConfig)
def distill(config: DistillConfig, subject: Subject) -> Made:
    """One term for each kind of rows.

    With p the distribution of the original model and q that of the tuned one, both at temperature T, over N positions:

        L = weight * T^2 * sum_n D(p_n, q_n) / N,

    D a divergence of ``ops.kl``. With a new head, over the B vectors h (of every real token where it reads tokens):

        L = weight * sum_b ||h_b - h'_b||^2 / D / B,   or   sum_b (1 - cos(h_b, h'_b)) / B.

    Memory: nothing with adapters; else a copy of the model, or ``top_k * 8`` bytes on disk for each position.

    Raises:
        UserError: A setting does not fit what the task learns.
    """
    refuse_unfit(config, subject)
    teacher, note_of = None, f"a cache in {config.cache}"
    if config.cache is None:
        teacher = Teacher.of(subject.model, subject.head, own=not subject.keeps_base)
        numbers = sum(p.numel() * p.element_size() for p in teacher.model.parameters())
        note_of = "the same model with its adapters switched off, which takes no memory"
        if not subject.keeps_base:
            note_of = f"a frozen copy of it of {megabytes(numbers, 1)}, since the base's own weights are trained"
    cache = (
        Cache.ready(config.cache, config.top_k, config.temperature, config.positions, subject) if config.cache else None
    )
    terms, further = [], None
    if config.on != "general":
        terms.append(Term("distill", config.weight, *_measure(config, subject, teacher, config.positions, cache)))
    if config.on != "task":
        general = General.read(config.data, subject, source=GENERAL, rows=config.rows, max_length=config.max_length)
        further = general
        terms.append(Term(GENERAL, config.weight, *_measure(config, subject, teacher, "all", None), source=GENERAL))
    rows = {"task": "the task's rows", "general": "general texts", "both": "the task's rows and general texts"}
    said = f"what the original says of {rows[config.on]}: {note_of}"
    what = f"`distill` at weight {config.weight:g} holds the model to {said}"
    return Made(tuple(terms), further, (note("distill", what),))


def refuse_unfit(config: DistillConfig, subject: Subject) -> None:
    """Refuse settings of logits where there are none, and of vectors where there are logits.

    Raises:
        UserError: There is one.
    """
    headless = subject.classifier is not None
    odd = config.changed(*(OF_LOGITS if headless else OF_STATES))
    if odd and headless:
        raise UserError(
            f"`{odd[0]}` compares words, and this task has a new head in place of the model's own: there are none",
            where="regularizers: distill",
            fix="leave it out; the vectors that the head reads are compared (`distance: mse` or `cosine`)",
        )
    if odd:
        raise UserError(
            f"`{odd[0]}` compares vectors, and this model is held by the words that it writes",
            where="regularizers: distill",
            fix="leave it out; `divergence` and `temperature` say how words are compared",
        )


Counted = tuple[Callable[[Batch], Tensor], Callable[[Batch, Context], Loss]]


def _measure(
    config: DistillConfig, subject: Subject, teacher: Teacher | None, where: str, cache: Cache | None
) -> Counted:
    """How a term counts, and what it says of a micro-batch."""
    if subject.classifier is not None:
        assert teacher is not None
        how = subject.classifier.pooling
        return partial(vectors, how=how), partial(_of_states, config=config, teacher=teacher, subject=subject)
    if cache is not None:
        return partial(_count, where=where), partial(_of_cache, config=config, cache=cache, where=where)
    assert teacher is not None
    return partial(_count, where=where), partial(_of_words, config=config, teacher=teacher, where=where)


# --- words ------------------------------------------------------------------------------------------------------------


def _count(batch: Batch, where: str) -> Tensor:
    return places(batch, where).sum()


def _of_words(batch: Batch, context: Context, *, config: DistillConfig, teacher: Teacher, where: str) -> Loss:
    chosen = places(batch, where)
    ours = context.hidden(batch)[chosen]
    theirs = teacher.hidden(batch)[chosen]
    logits = _logits_of(teacher, theirs)
    judge = dense(logits, config.divergence, config.temperature)
    return _summed(_head(context).divergences(ours, judge, config.temperature))


def _of_cache(batch: Batch, context: Context, *, config: DistillConfig, cache: Cache, where: str) -> Loss:
    ours = context.hidden(batch)[places(batch, where)]
    ids, log_probs = (part.to(ours.device) for part in cache.rows(batch["row_ids"]))
    judge = sparse(ids, log_probs, config.divergence)
    return _summed(_head(context).divergences(ours, judge, config.temperature))


def _logits_of(teacher: Teacher, hidden_ND: Tensor) -> Callable[[slice], Tensor]:
    """The original model's logits a chunk at a time, in the number format that is in use here."""
    device = hidden_ND.device.type
    casts, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def logits(part: slice) -> Tensor:
        with torch.autocast(device, dtype=dtype, enabled=casts):
            return teacher.logits(hidden_ND[part])

    return logits


def _head(context: Context) -> Head:
    head = context.head()
    assert isinstance(head, Head)
    return head


# --- vectors ----------------------------------------------------------------------------------------------------------


def _of_states(batch: Batch, context: Context, *, config: DistillConfig, teacher: Teacher, subject: Subject) -> Loss:
    assert subject.classifier is not None
    how = subject.classifier.pooling
    ours = pool(subject.model, context.hidden(batch), batch, how)
    theirs = teacher.pooled(batch, how)
    if how == "tokens":
        chosen = places(batch, "all")
        ours, theirs = ours[chosen], theirs[chosen]
    with torch.autocast(ours.device.type, enabled=False):
        wide = torch.float64 if ours.dtype == torch.float64 else torch.float32
        return _summed(DISTANCES[config.distance](ours.to(wide), theirs.to(wide)))


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda ours, theirs: (ours - theirs).square().mean(-1),
    "cosine": lambda ours, theirs: 1 - F.cosine_similarity(ours, theirs, dim=-1),
}


def _summed(values: Tensor) -> Loss:
    known = values.detach().double()
    return Loss(values.sum(), {"distance": Mean(float(known.sum()), float(known.numel()))})
