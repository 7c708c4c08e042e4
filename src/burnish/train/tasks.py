"""What each kind of task brings to a run: a table, so that the loop, the evaluation and the files know none by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from burnish.adapters.registry import METHODS
from burnish.augment.build import methods_of
from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.core.types import Term
from burnish.data.labelled import Classes
from burnish.data.prepare import Prepared, prepare
from burnish.data.render import Kind
from burnish.models.classifier import PoolingName, drop_idle_pooler, new_classifier
from burnish.models.forward import positions_of
from burnish.models.load import Loaded, load, load_model_config, load_tokenizer
from burnish.models.pooling import declared_pooling
from burnish.objectives.classification import balanced_weights, classification_terms
from burnish.objectives.config import ClassificationTask
from burnish.objectives.sft import supervised_terms
from burnish.train.config import RunConfig
from burnish.train.handover import open_model


@dataclass(frozen=True)
class Task:
    """One entry of the table.

    Attributes:
        terms: The objective, from the recipe's task and the rows.
        classes: What the preparation of data is to look for; None to learn text.
        headless: Whether the model is loaded without a language-model head.
        adorn: Puts new heads on a freshly loaded model.
        settle: The recipe with what the rows decide filled in.
        rates: Default peak learning rate by adapter method, with its reason, where it is not the method's own.
    """

    terms: Callable[[RunConfig, Prepared], list[Term]]
    classes: Callable[[RunConfig], Classes | None] = lambda config: None
    headless: bool = False
    adorn: Callable[[RunConfig, Loaded], Loaded] = lambda config, loaded: loaded
    settle: Callable[[RunConfig, Prepared], RunConfig] = lambda config, prepared: config
    rates: Mapping[str, tuple[float, str]] = field(default_factory=dict)


def task_of(config: RunConfig) -> Task:
    """The entry of a recipe's task."""
    return TASKS[config.task.kind]


def read_data(config: RunConfig, *, augment: bool = True) -> Prepared:
    """The rows of a recipe as tokens; needs the tokenizer, not the weights.

    Args:
        config: The recipe.
        augment: Whether new training rows are made, where it asks for them; the held-out rows are the same either way.
    """
    tokenizer, model_config = load_tokenizer(config.model), load_model_config(config.model)
    kind: Kind = "seq2seq" if model_config.is_encoder_decoder else "causal"
    data, notes = within_positions(config, model_config) if config.classifies else (config.data, [])
    entries = data.augment if augment else ()
    methods = methods_of(entries, config.seed, partial(open_model, dtype=torch.float32))
    data = data.model_copy(update={"augment": entries})
    prepared = prepare(data, tokenizer, kind, config.seed, classes=task_of(config).classes(config), augment=methods)
    prepared.findings.extend(notes)
    return prepared


def within_positions(config: RunConfig, model_config: Any) -> tuple[Any, list[Finding]]:
    """The data settings with rows no longer than the model has positions for.

    Raises:
        UserError: The recipe asks for longer ones.
    """
    data = config.data
    positions = positions_of(model_config)
    if positions is None or data.render.max_length <= positions:
        return data, []
    if "max_length" in data.render.model_fields_set:
        raise UserError(
            f"rows of {data.render.max_length} tokens do not fit: the model has {positions} positions",
            where="data.render.max_length",
            fix=f"set it to {positions} or less",
        )
    what = f"rows are cut at {positions} tokens, the positions that the model has"
    note = Finding("note", "render.max-length", what, where="data.render.max_length")
    return data.model_copy(update={"render": data.render.model_copy(update={"max_length": positions})}), [note]


def load_new(config: RunConfig, dtype: torch.dtype) -> Loaded:
    """The recipe's model with whatever new heads its task needs; they are not trained yet."""
    task = task_of(config)
    return task.adorn(config, load(config.model, dtype, headless=task.headless))


def _classes(config: RunConfig) -> Classes:
    assert isinstance(config.task, ClassificationTask)
    return Classes(config.task.labels)


def _with_new_head(config: RunConfig, loaded: Loaded) -> Loaded:
    task = config.task
    assert isinstance(task, ClassificationTask) and task.labels
    pooling, _ = choose_pooling(task.pooling, loaded)
    if METHODS[config.adapter.method].format == "model":
        drop_idle_pooler(loaded.model, pooling)
    bias = loaded.kind == "encoder"  # the heads of `transformers` on decoders have none, so that ours can become theirs
    loaded.classifier = new_classifier(
        loaded.model, task.labels, pooling, dropout=task.dropout, bias=bias, seed=config.seed
    )
    return loaded


def choose_pooling(asked: str, loaded: Loaded) -> tuple[PoolingName, str]:
    """What the head reads, and why."""
    if asked != "auto":
        return asked, "the recipe says so"  # type: ignore[return-value]
    declared = declared_pooling(Path(loaded.folder))
    if declared is not None:
        return declared, "the model's files say that its sentence vectors are made so"
    if loaded.kind == "causal":
        return "last", "the last token is the only one that has seen the whole text"
    return "mean", "every token has seen the whole text, and their mean needs no token that was trained for it"


def _settled(config: RunConfig, prepared: Prepared) -> RunConfig:
    assert isinstance(config.task, ClassificationTask)
    labels = prepared.renderer.labels  # type: ignore[attr-defined]  # a classification's renderer has them
    render = prepared.renderer.config
    return config.model_copy(
        update={
            "task": config.task.model_copy(update={"labels": tuple(labels)}),
            "data": config.data.model_copy(update={"render": render}),
        }
    )


def _classification(config: RunConfig, prepared: Prepared) -> list[Term]:
    task = config.task
    assert isinstance(task, ClassificationTask)
    weights = None
    if task.class_weights == "balanced":
        weights = balanced_weights(prepared.train.labels, len(task.labels))
    return classification_terms(
        label_smoothing=task.label_smoothing, focal_gamma=task.focal_gamma, class_weights=weights
    )


TASKS: Mapping[str, Task] = {
    "text": Task(terms=lambda config, prepared: supervised_terms()),
    "classification": Task(
        terms=_classification,
        classes=_classes,
        headless=True,
        adorn=_with_new_head,
        settle=_settled,
        rates={
            "lora": (
                5e-4,
                "LoRA with a new head: on 1,000 tweets MiniLM reached macro-F1 0.70 with it, 0.65 with 2e-4",
            ),
            "full": (5e-5, "the upper end of what BERT's authors searched (2e-5 to 5e-5); the head learns faster"),
        },
    ),
}
"""What a model can learn, by the value of ``task.kind``."""
