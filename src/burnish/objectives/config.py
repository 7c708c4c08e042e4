"""The `task` section of a recipe: what the model is to learn."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from burnish.core.config import Config
from burnish.objectives.head_configs import (
    ExtractiveQATask,
    RankingTask,
    RegressionTask,
    TokenClassificationTask,
    as_texts,
    refuse_odd,
)


class TextTask(Config):
    """Learn to write: the completion after its prompt, or the turns of an assistant. The default."""

    METRICS: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["text"] = "text"
    """The name of the task."""

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics that can choose a checkpoint."""
        return self.METRICS

    @property
    def head(self) -> str:
        """No head is trained."""
        return self.kind


class ClassificationTask(Config):
    """Learn to tell which one of several classes a text, or a pair of texts, belongs to, with a head on the model.

    The columns `text` and `label` of the data (and `text_pair` for pairs) are used; `columns` maps others to them.
    """

    METRICS: ClassVar[frozenset[str]] = frozenset({"accuracy", "macro_f1"})
    METRICS_OF_SEVERAL: ClassVar[frozenset[str]] = frozenset({"subset_accuracy", "macro_f1", "micro_f1"})

    kind: Literal["classification"] = "classification"
    """The name of the task."""
    multi_label: bool = False
    """A text may have several classes, or none: the column `labels` holds a list. Each class has a probability and a
    threshold of its own, chosen on the validation rows."""
    labels: tuple[str, ...] = ()
    """The classes, in the order of their numbers. Without them those of the training rows, sorted, which are shown."""
    heads: Literal["auto", "own", "shared"] = "auto"
    """Whether each `task` that sources name has a head with classes of its own (`own`), named `TASK/LABEL`, or all
    share one (`shared`). `auto`: own ones where sources name at least two tasks."""
    pooling: Literal["auto", "cls", "mean", "last", "pooler"] = "auto"
    """What the head reads: the first token, the mean of all, the last one, or the model's own pooler over the first.
    `auto`: what a sentence encoder's files say, else the mean for encoders; the last token for decoders."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout on what the head reads, while training."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes, those of the row's task where tasks have heads of their
    own."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs a row by the inverse frequency of its class; over the training rows the mean weight is 1."""
    focal_gamma: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Weigh a row by (1 - p)^gamma, p the probability of its class, so that what is certain counts less. 0: not."""
    head_rate_scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Factor on the learning rate for the head, which starts at random where the model is trained already. Without it
    10; with the large rates of prompts and prefixes less, so that the head learns at a rate of about 0.01."""
    calibrate: bool = False
    """Fit a temperature on the validation rows when training has ended, so that probabilities are as sure as they are
    right (Guo et al., 2017). It is stored with the head and changes no predicted class."""

    _texts = field_validator("labels", mode="before")(as_texts)

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics that can choose a checkpoint."""
        return self.METRICS_OF_SEVERAL if self.multi_label else self.METRICS

    @property
    def head(self) -> str:
        """What kind of head is trained."""
        return "multi-label" if self.multi_label else self.kind

    @model_validator(mode="after")
    def _sensible(self) -> ClassificationTask:
        if not (self.multi_label and len(self.labels) == 1):
            refuse_odd(self.labels)
        if self.multi_label and (self.label_smoothing or self.focal_gamma or self.class_weights != "none"):
            raise ValueError("label_smoothing, class_weights and focal_gamma are for one class a row, not multi_label")
        if self.multi_label and self.heads == "own":
            raise ValueError("heads of tasks are for one class a row; with multi_label set `heads: shared`")
        if self.multi_label and self.calibrate:
            raise ValueError("calibrate is for one class a row; multi_label chooses a threshold for each class instead")
        if self.focal_gamma and self.label_smoothing:
            raise ValueError("focal_gamma and label_smoothing contradict each other; give one of them")
        return self


HeadTask = ClassificationTask | TokenClassificationTask | ExtractiveQATask | RegressionTask | RankingTask
"""The tasks that a head beside the model learns."""
TaskConfig = Annotated[TextTask | HeadTask, Field(discriminator="kind")]
