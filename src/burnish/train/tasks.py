"""What each kind of task brings to a run: a table, so that the loop, the evaluation and the files know none by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from burnish.augment.build import methods_of
from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.core.types import Batch, Term
from burnish.data.config import DataConfig
from burnish.data.dealt import prepare_together
from burnish.data.prepare import Prepared, prepare
from burnish.data.render import Kind
from burnish.data.tasks import Task as DataTask
from burnish.data.tasks import TextTask as LearntText
from burnish.models.forward import positions_of
from burnish.models.load import Loaded, load, load_model_config, load_tokenizer, ready_files
from burnish.objectives.heads import head_terms, rows_of, tokens_of
from burnish.objectives.sft import supervised_terms
from burnish.ops.units import UnitLosses, pair_units, several_units, span_units, token_units
from burnish.train import heads
from burnish.train.config import RunConfig
from burnish.train.distributed.group import Group
from burnish.train.handover import open_model
from burnish.train.replay import read_replay

HEAD_RATE_SCALE = 10.0
"""How much faster a new head learns than adapters of weights, which begin at a good place."""


@dataclass(frozen=True)
class Task:
    """One entry of the table.

    Attributes:
        terms: The objective, from the recipe's task and the rows.
        data: What the preparation of data learns from the rows.
        headless: Whether the model is loaded without a language-model head.
        adorn: Puts new heads on a freshly loaded model.
        settle: The recipe with what the rows decide filled in.
        head_rate_scales: How much faster a new head learns, by adapter method, where it is not ``HEAD_RATE_SCALE``.
        rates: Default peak learning rate by adapter method, with its reason, where it is not the method's own.
    """

    terms: Callable[[RunConfig, Prepared], list[Term]]
    data: Callable[[RunConfig], DataTask] = lambda config: LearntText()
    headless: bool = False
    adorn: Callable[[RunConfig, Loaded], Loaded] = lambda config, loaded: loaded
    settle: Callable[[RunConfig, Prepared], RunConfig] = lambda config, prepared: config
    rates: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    head_rate_scales: Mapping[str, float] = field(default_factory=dict)


def task_of(config: RunConfig) -> Task:
    """The entry of a recipe's task."""
    return TASKS[config.task.head]


def read_data(config: RunConfig, *, augment: bool = True) -> Prepared:
    """The rows of a recipe as tokens; needs the tokenizer, not the weights.

    Args:
        config: The recipe.
        augment: Whether new training rows are made and general ones read, where it asks for them; the held-out rows
            are the same either way.
    """
    tokenizer, kind, data, notes = _asked(config)
    entries = data.augment if augment else ()
    methods = methods_of(entries, config.seed, partial(open_model, dtype=torch.float32))
    data = data.model_copy(update={"augment": entries})
    task = task_of(config).data(config)
    prepared = prepare(data, tokenizer, kind, config.seed, task=task, augment=methods)
    prepared.findings.extend(notes)
    labelled = partial(_settled, config, prepared) if config.classifies else None
    replayed = read_replay(config, prepared, tokenizer, kind, labelled) if augment else None
    if replayed is None:
        return prepared
    rows, said = replayed
    prepared.findings.extend(said)
    return replace(prepared, replay=rows, summary={**prepared.summary, "replay": rows.summary})


def read_data_together(config: RunConfig, group: Group) -> tuple[Prepared, list[Finding]]:
    """The rows of a recipe in every process of a run; each file is read by one of them, where they can be dealt out.

    Args:
        config: The recipe.
        group: The processes, which all ask together.

    Returns:
        The rows, and a note of how the files were read.
    """
    tokenizer, kind, data, _ = _asked(config)
    notes = prepare_together(data, tokenizer, kind, config.seed, group, task=task_of(config).data(config))
    return group.main_first(partial(read_data, config)), notes


def _asked(config: RunConfig) -> tuple[PreTrainedTokenizerBase, Kind, DataConfig, list[Finding]]:
    """What rows are made with: tokenizer, kind of model, settings of the data, and what there is to say of these."""
    tokenizer, model_config = load_tokenizer(config.model), load_model_config(config.model)
    kind: Kind = "seq2seq" if model_config.is_encoder_decoder else "causal"
    data, notes = within_positions(config, model_config) if config.classifies else (config.data, [])
    return tokenizer, kind, data.model_copy(update={"replay": None}), notes


def _settled(config: RunConfig, prepared: Prepared) -> DataTask:
    """What is learnt of rows beside those that decided about classes, units and the like."""
    entry = task_of(config)
    return entry.data(entry.settle(config, prepared))


def within_positions(config: RunConfig, model_config: Any) -> tuple[Any, list[Finding]]:
    """The data settings with rows no longer than the model has positions for.

    Raises:
        UserError: The recipe asks for longer ones.
    """
    data = config.data
    positions = positions_of(model_config)
    extra = config.virtual_tokens
    positions = positions if positions is None else max(0, positions - extra)
    beside = f" beside the {extra} virtual tokens" if extra else ""
    if positions is None or data.render.max_length <= positions:
        return data, []
    if "max_length" in data.render.model_fields_set:
        raise UserError(
            f"rows of {data.render.max_length} tokens do not fit: the model has {positions} positions{beside}",
            where="data.render.max_length",
            fix=f"set it to {positions} or less",
        )
    what = f"rows are cut at {positions} tokens, the positions that the model has{beside}"
    note = Finding("note", "render.max-length", what, where="data.render.max_length")
    return data.model_copy(update={"render": data.render.model_copy(update={"max_length": positions})}), [note]


def load_new(config: RunConfig, dtype: torch.dtype, group: Group | None = None) -> Loaded:
    """The recipe's model with whatever new heads its task needs; they are not trained yet.

    Args:
        config: The recipe.
        dtype: Format of the weights.
        group: Processes that will share the weights out, so that none should take memory for all of them.
    """
    task = task_of(config)
    if group is not None:
        group.main_first(partial(ready_files, config.model, dtype))
    return task.adorn(config, load(config.model, dtype, headless=task.headless, mapped=group is not None))


def load_whole(config: RunConfig) -> PreTrainedModel:
    """The recipe's model with the weights of its files, where the run keeps them in 4 bits."""
    whole = config.model.model_copy(update={"quantization": None})
    return load(whole, torch.float32, verify=False, headless=task_of(config).headless).model


def _with_rates(**entry: Any) -> Task:
    """A task with a head: the model comes without its own, and learns at the rates of such."""
    return Task(headless=True, rates=heads.HEAD_RATES, head_rate_scales={"prompt": 0.3, "prefix": 1.0}, **entry)


def _mean(
    name: str, units: UnitLosses, count: Callable[[Batch], Tensor]
) -> Callable[[RunConfig, Prepared], list[Term]]:
    """The objective of a task whose loss is a plain mean."""
    return lambda config, prepared: head_terms(name, units, count)


TASKS: Mapping[str, Task] = {
    "text": Task(terms=lambda config, prepared: supervised_terms()),
    "classification": _with_rates(
        terms=heads.classification, data=heads.classes, adorn=heads.with_labels, settle=heads.settled_labels
    ),
    "multi-label": _with_rates(
        terms=_mean("multi-label", several_units, rows_of),
        data=heads.several,
        adorn=heads.with_labels,
        settle=heads.settled_labels,
    ),
    "token-classification": _with_rates(
        terms=_mean("token-classification", token_units, tokens_of),
        data=heads.tagged,
        adorn=heads.with_labels,
        settle=heads.settled_labels,
    ),
    "extractive-qa": _with_rates(
        terms=_mean("extractive-qa", span_units, rows_of),
        data=heads.spanned,
        adorn=heads.with_ends,
        settle=heads.settled_spans,
    ),
    "regression": _with_rates(
        terms=heads.regression, data=heads.scored, adorn=heads.with_score, settle=heads.settled_scores
    ),
    "ranking": _with_rates(terms=_mean("ranking", pair_units, rows_of), data=heads.paired, adorn=heads.with_score),
}
"""What a model can learn, by the value of ``task.kind`` (``multi-label`` for a classification that says so)."""
