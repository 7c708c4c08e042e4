"""What the tasks with a head beside the model bring to a run: rows, heads, losses, and what the rows decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.adapters.registry import METHODS
from burnish.core.errors import UserError
from burnish.core.task_labels import SEPARATOR, tasks_of_classes
from burnish.core.types import Term
from burnish.data.labelled import Classes
from burnish.data.own_classes import OwnClassesTask
from burnish.data.prepare import Prepared
from burnish.data.spans import ENDS, SpanRenderer, SpanTask
from burnish.data.tagged import TaggedTask
from burnish.data.tasks import ClassTask
from burnish.data.tasks import Task as DataTask
from burnish.data.valued import SCORE, PairTask, ScoredRenderer, ScoredTask, SeveralTask
from burnish.models.classifier import PoolingName, drop_idle_pooler, new_classifier
from burnish.models.load import Loaded
from burnish.models.pooling import declared_pooling
from burnish.objectives.classification import balanced_weights, classification_terms
from burnish.objectives.config import ClassificationTask, TextTask
from burnish.objectives.head_configs import ExtractiveQATask, RankingTask, RegressionTask, TokenClassificationTask
from burnish.objectives.heads import head_terms, rows_of
from burnish.ops.units import huber_units, squared_units
from burnish.train.config import RunConfig

HEAD_RATES: Mapping[str, tuple[float, str]] = {
    "lora": (5e-4, "LoRA with a new head: on 1,000 tweets MiniLM reached macro-F1 0.70 with it, 0.65 with 2e-4"),
    "adalora": (
        2e-3,
        "on 288 tweets and two passes MiniLM reached macro-F1 0.66 with it, 0.41 with the head as it was drawn",
    ),
    "vera": (2e-3, "VeRA with a new head: on 1,000 tweets MiniLM reached macro-F1 0.68 with it, 0.63 with 5e-3"),
    "prompt": (
        3e-2,
        "20 vectors have to move a frozen model: on 320 tweets MiniLM with a new head reached macro-F1 0.67 with it, "
        "from 0.40",
    ),
    "prefix": (1e-2, "on 160 tweets, 20 updates, MiniLM with a new head reached macro-F1 0.63, from 0.40"),
    "p-tuning": (1e-3, "on 160 tweets, 20 updates, MiniLM with a new head reached macro-F1 0.61, from 0.47"),
    "bottleneck": (
        1e-3,
        "bottleneck adapters with a new head: on 500 tweets MiniLM reached macro-F1 0.70, its head alone 0.67",
    ),
    "ia3": (
        1e-3,
        "(IA)^3 with a new head: on 500 tweets MiniLM reached macro-F1 0.67 with it, 0.65 with 3e-3, at which "
        "the head, ten times as fast, overshoots",
    ),
    "norm": (2e-3, "norms with a new head: on 500 tweets MiniLM reached macro-F1 0.68, its head alone 0.67"),
    "bitfit": (2e-3, "biases with a new head: on 500 tweets MiniLM reached macro-F1 0.68, its head alone 0.67"),
    "head": (1e-3, "the head learns ten times as fast: 1e-2 suits a linear map on frozen features"),
    "full": (5e-5, "the upper end of what BERT's authors searched (2e-5 to 5e-5); the head learns faster"),
}
"""Default peak learning rate by adapter method, with its reason."""


def choose_pooling(asked: str, loaded: Loaded) -> tuple[PoolingName, str]:
    """What the head reads, and why."""
    if asked == "tokens":
        return "tokens", "every token gets an answer of its own"
    if asked != "auto":
        return asked, "the recipe says so"  # type: ignore[return-value]
    declared = declared_pooling(Path(loaded.folder))
    if declared is not None:
        return declared, "the model's files say that its sentence vectors are made so"
    if loaded.kind == "causal":
        return "last", "the last token is the only one that has seen the whole text"
    return "mean", "every token has seen the whole text, and their mean needs no token that was trained for it"


def with_new_head(
    config: RunConfig, loaded: Loaded, labels: Sequence[str], settings: Mapping[str, Any] | None = None
) -> Loaded:
    """The model with a fresh head beside it; it is not trained yet.

    Args:
        config: The recipe.
        loaded: The model.
        labels: Names of what the head gives.
        settings: What else it needs to answer.
    """
    task = config.task
    assert not isinstance(task, TextTask)
    class_tasks = tasks_of_classes(labels) if has_own_heads(config) else ()
    pooling, _ = choose_pooling(getattr(task, "pooling", "tokens"), loaded)
    if any(METHODS[adapter.method].format == "model" for adapter in config.adapters):
        drop_idle_pooler(loaded.model, pooling)
    # The heads of `transformers` on decoders have no bias, so that ours can become theirs; those on every token have.
    # The difference of two scores does not depend on one, and a score of its own needs one.
    bias = (loaded.kind == "encoder" or pooling == "tokens" or task.head == "regression") and task.head != "ranking"
    loaded.classifier = new_classifier(
        loaded.model,
        labels,
        pooling,
        dropout=task.dropout,
        bias=bias,
        seed=config.seed,
        task=task.head,
        settings=settings,
        class_tasks=class_tasks,
    )
    return loaded


# --- classification ---------------------------------------------------------------------------------------------------


def classes(config: RunConfig) -> DataTask:
    """One class a row, of all classes or of those of its task."""
    assert isinstance(config.task, ClassificationTask)
    asked = Classes(config.task.labels)
    return OwnClassesTask(asked, named_tasks(config)) if has_own_heads(config) else ClassTask(asked)


def has_own_heads(config: RunConfig) -> bool:
    """Whether each task that the data names has classes of its own.

    Raises:
        UserError: The recipe asks for it, and the data names fewer than two tasks.
    """
    task, named = config.task, config.data.tasks
    if not isinstance(task, ClassificationTask) or task.multi_label or task.heads == "shared":
        return False
    if task.heads == "own" and len(named) < 2:
        what = f"`heads: own` needs two tasks, and the data names {f'only `{named[0]}`' if named else 'none'}"
        raise UserError(what, where="task.heads", fix="write `task: NAME` beside the `path` of each source")
    return len(named) > 1


def named_tasks(config: RunConfig) -> tuple[str, ...]:
    """The tasks of the data, each of which has classes of its own.

    Raises:
        UserError: A source names none, or a name cannot stand in front of a label.
    """
    data = config.data
    sources = [*data.train_sources, *(source for source in (data.validation, data.test) if source is not None)]
    nameless = next((source.path for source in sources if source.task is None), None)
    if nameless is not None:
        fix = "write `task: NAME` beside its `path`, or set `task.heads: shared`"
        raise UserError("a source names no task, and each task has classes of its own", where=nameless, fix=fix)
    odd = next((name for name in data.tasks if SEPARATOR in name), None)
    if odd is not None:
        fix = f"name it without `{SEPARATOR}`, which stands between a task and its labels"
        raise UserError(f"the task `{odd}` cannot have classes of its own", where="data", fix=fix)
    return data.tasks


def several(config: RunConfig) -> DataTask:
    """Any number of classes a row."""
    assert isinstance(config.task, ClassificationTask)
    return SeveralTask(config.task.labels)


def with_labels(config: RunConfig, loaded: Loaded) -> Loaded:
    """A head with one number for each label of the recipe."""
    assert isinstance(config.task, (ClassificationTask, TokenClassificationTask)) and config.task.labels
    return with_new_head(config, loaded, config.task.labels)


def settled_labels(config: RunConfig, prepared: Prepared) -> RunConfig:
    """The recipe with the labels that were found in the rows, so that a later look at other rows numbers them alike."""
    return _settled(config, prepared, labels=tuple(prepared.renderer.labels))  # type: ignore[attr-defined]


def classification(config: RunConfig, prepared: Prepared) -> list[Term]:
    """The objective of one class a row."""
    task = config.task
    assert isinstance(task, ClassificationTask)
    weights, class_tasks = None, tasks_of_classes(task.labels) if has_own_heads(config) else ()
    if task.class_weights == "balanced":
        weights = balanced_weights(prepared.train.labels, len(task.labels), class_tasks)
    return classification_terms(
        label_smoothing=task.label_smoothing,
        focal_gamma=task.focal_gamma,
        class_weights=weights,
        class_tasks=class_tasks,
    )


def _settled(config: RunConfig, prepared: Prepared, **found: Any) -> RunConfig:
    task = config.task.model_copy(update=found)
    data = config.data.model_copy(update={"render": prepared.renderer.config})
    return config.model_copy(update={"task": task, "data": data})


# --- tags and places --------------------------------------------------------------------------------------------------


def tagged(config: RunConfig) -> DataTask:
    """A tag a word."""
    task = config.task
    assert isinstance(task, TokenClassificationTask)
    return TaggedTask(task.labels, task.label_all_tokens, task.stride)


def spanned(config: RunConfig) -> DataTask:
    """The place of an answer."""
    assert isinstance(config.task, ExtractiveQATask)
    return SpanTask(config.task.no_answer, config.task.stride)


def with_ends(config: RunConfig, loaded: Loaded) -> Loaded:
    """A head for both ends of an answer."""
    task = config.task
    assert isinstance(task, ExtractiveQATask)
    settings = {"no_answer": bool(task.no_answer), "max_answer_tokens": task.max_answer_tokens, "best": task.best}
    return with_new_head(config, loaded, ENDS, settings)


def settled_spans(config: RunConfig, prepared: Prepared) -> RunConfig:
    """The recipe with whether there may be no answer."""
    assert isinstance(prepared.renderer, SpanRenderer)
    return _settled(config, prepared, no_answer=prepared.renderer.no_answer)


# --- scores -----------------------------------------------------------------------------------------------------------


def scored(config: RunConfig) -> DataTask:
    """A score a row."""
    assert isinstance(config.task, RegressionTask)
    return ScoredTask(config.task.mean, config.task.deviation)


def paired(config: RunConfig) -> DataTask:
    """Which of two texts is preferred."""
    return PairTask()


def with_score(config: RunConfig, loaded: Loaded) -> Loaded:
    """A head with one number, and the unit that it is in."""
    task = config.task
    assert isinstance(task, (RegressionTask, RankingTask))
    settings = {"mean": task.mean, "deviation": task.deviation} if isinstance(task, RegressionTask) else {}
    return with_new_head(config, loaded, SCORE, settings)


def settled_scores(config: RunConfig, prepared: Prepared) -> RunConfig:
    """The recipe with mean and deviation of the training rows' scores."""
    renderer = prepared.renderer
    assert isinstance(renderer, ScoredRenderer)
    return _settled(config, prepared, mean=renderer.mean, deviation=renderer.deviation)


def regression(config: RunConfig, prepared: Prepared) -> list[Term]:
    """The objective of a score."""
    assert isinstance(config.task, RegressionTask)
    units = {"mse": squared_units, "huber": huber_units}[config.task.loss]
    return head_terms("regression", units, rows_of)
