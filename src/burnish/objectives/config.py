"""The `task` section of a recipe: what the model is to learn."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from burnish.core.config import Config


class TextTask(Config):
    """Learn to write: the completion after its prompt, or the turns of an assistant. The default."""

    kind: Literal["text"] = "text"
    """The name of the task."""


class ClassificationTask(Config):
    """Learn to tell which one of several classes a text, or a pair of texts, belongs to, with a head on the model.

    The columns `text` and `label` of the data (and `text_pair` for pairs) are used; `columns` maps others to them.
    """

    kind: Literal["classification"] = "classification"
    """The name of the task."""
    labels: tuple[str, ...] = ()
    """The classes, in the order of their numbers. Without them those of the training rows, sorted, which are shown."""
    pooling: Literal["auto", "cls", "mean", "last", "pooler"] = "auto"
    """What the head reads: the first token, the mean of all, the last one, or the model's own pooler over the first.
    `auto`: what a sentence encoder's files say, else the mean for encoders; the last token for decoders."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout on what the head reads, while training."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs a row by the inverse frequency of its class; over the training rows the mean weight is 1."""
    focal_gamma: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Weigh a row by (1 - p)^gamma, p the probability of its class, so that what is certain counts less. 0: not."""
    head_rate_scale: float = Field(10.0, gt=0, allow_inf_nan=False)
    """Factor on the learning rate for the head, which starts at random where the model is trained already."""
    calibrate: bool = False
    """Fit a temperature on the validation rows when training has ended, so that probabilities are as sure as they are
    right (Guo et al., 2017). It is stored with the head and changes no predicted class."""

    @field_validator("labels", mode="before")
    @classmethod
    def _as_texts(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            if any(isinstance(v, bool) for v in value):
                raise ValueError("YAML reads yes, no, true and false as truth values; quote these labels")
            return tuple(str(v).strip() if isinstance(v, (int, float, str)) else v for v in value)
        return value

    @model_validator(mode="after")
    def _sensible(self) -> ClassificationTask:
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels) or "" in self.labels:
            raise ValueError("labels must be at least two, distinct and not empty")
        if self.focal_gamma and self.label_smoothing:
            raise ValueError("focal_gamma and label_smoothing contradict each other; give one of them")
        return self


TaskConfig = Annotated[TextTask | ClassificationTask, Field(discriminator="kind")]
