"""What a recipe says of the tasks whose head gives more than one class a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from burnish.core.config import Config


def as_texts(value: Any) -> Any:
    """Labels as YAML gives them, as texts."""
    if isinstance(value, (list, tuple)):
        if any(isinstance(v, bool) for v in value):
            raise ValueError("YAML reads yes, no, true and false as truth values; quote these labels")
        return tuple(str(v).strip() if isinstance(v, (int, float, str)) else v for v in value)
    return value


def refuse_odd(labels: Sequence[str]) -> None:
    """Refuse labels that do not tell classes apart."""
    if len(labels) == 1 or len(set(labels)) < len(labels) or "" in labels:
        raise ValueError("labels must be at least two, distinct and not empty")


class HeadTaskConfig(Config):
    """What all tasks with a head of their own have in common."""

    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout on what the head reads, while training."""
    head_rate_scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Factor on the learning rate for the head, which starts at random where the model is trained already."""

    METRICS: ClassVar[frozenset[str]] = frozenset()

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics that can choose a checkpoint."""
        return self.METRICS

    @property
    def head(self) -> str:
        """What kind of head is trained."""
        return str(self.kind)  # type: ignore[attr-defined]  # every task has one


class TokenClassificationTask(HeadTaskConfig):
    """Learn to tag the words of a text, such as the names in it, with a head on every token.

    The columns `tokens` (words) and `ner_tags` (a tag each) of the data are used; `columns` maps others to them. Tags
    of the form `O`, `B-KIND` and `I-KIND` are scored as entities. A text that is longer than a row is read in windows.
    """

    METRICS: ClassVar[frozenset[str]] = frozenset({"accuracy", "entity_f1", "entity_precision", "entity_recall"})

    kind: Literal["token-classification"] = "token-classification"
    """The name of the task."""
    labels: tuple[str, ...] = ()
    """The tags, in the order of their numbers; needed where the rows hold numbers. Without them those of the training
    rows."""
    label_all_tokens: bool = False
    """Learn a word's tag on all of its tokens (`B-` as `I-` behind the first). Without it on the first only."""
    stride: int | None = Field(None, ge=0)
    """Tokens that neighbouring windows of a long text share. Without it a quarter of a row."""

    _texts = field_validator("labels", mode="before")(as_texts)

    @model_validator(mode="after")
    def _sensible(self) -> TokenClassificationTask:
        refuse_odd(self.labels)
        return self


class ExtractiveQATask(HeadTaskConfig):
    """Learn to point at the answer to a question in its context, with a head for both ends of the answer.

    The columns `question`, `context` and `answers` (`{text: […], answer_start: […]}`, as in SQuAD), or `answer` and
    `answer_start`, of the data are used; `columns` maps others to them. An empty list of answers means that the context
    holds none. A long context is read in windows.
    """

    METRICS: ClassVar[frozenset[str]] = frozenset({"exact_match", "token_f1"})

    kind: Literal["extractive-qa"] = "extractive-qa"
    """The name of the task."""
    stride: int | None = Field(None, ge=0)
    """Tokens of the context that neighbouring windows share. Without it a quarter of a window."""
    no_answer: bool | None = None
    """Whether a question may have no answer. Without it: whether a training row has none."""
    max_answer_tokens: int = Field(30, ge=1)
    """Longest answer that is given, in tokens."""
    best: int = Field(5, ge=1, le=100)
    """Answers that are listed for each question, the likeliest first."""


class RegressionTask(HeadTaskConfig):
    """Learn to give a text, or a pair of texts, a number.

    The columns `text` and `score` of the data (and `text_pair` for pairs) are used; `columns` maps others to them. The
    number is learnt in standard deviations from the mean of the training rows; answers and errors are in its own unit.
    """

    METRICS: ClassVar[frozenset[str]] = frozenset({"pearson", "spearman", "mae", "rmse"})

    kind: Literal["regression"] = "regression"
    """The name of the task."""
    pooling: Literal["auto", "cls", "mean", "last", "pooler"] = "auto"
    """What the head reads, as in a classification."""
    mean: float | None = Field(None, allow_inf_nan=False)
    """What is taken from a score before it is learnt. Without it the mean of the training rows."""
    deviation: float | None = Field(None, gt=0, allow_inf_nan=False)
    """What it is divided by then. Without it the standard deviation of the training rows."""
    loss: Literal["mse", "huber"] = "mse"
    """`huber` grows as the error, not as its square, beyond one standard deviation: single odd scores weigh less."""


class RankingTask(HeadTaskConfig):
    """Learn to score texts so that the preferred one of two scores higher, as a reward model does.

    The columns `chosen` and `rejected` of the data (and `prompt`, if both answer one) are used; `columns` maps others
    to them. The loss is that of Bradley and Terry (1952), `-log σ(r_chosen − r_rejected)`; only differences of the
    score mean something.
    """

    METRICS: ClassVar[frozenset[str]] = frozenset({"pair_accuracy", "margin"})

    kind: Literal["ranking"] = "ranking"
    """The name of the task."""
    pooling: Literal["auto", "cls", "mean", "last", "pooler"] = "auto"
    """What the head reads, as in a classification."""
