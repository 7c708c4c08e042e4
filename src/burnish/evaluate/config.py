"""What is measured, and how often."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from burnish.core.config import Config
from burnish.models.generate import GenerateConfig

TextMetric = Literal["exact_match", "squad", "bleu", "chrf", "rouge", "distinct"]


GENERAL = "general"
"""The retention set that comes with the package."""
NONE = "none"


class RetentionConfig(Config):
    """What a tuned model is to know still, and when it is asked. `retention: PATH` is short for `retention: {sources:
    PATH}`, and `retention: none` turns it off."""

    sources: tuple[str, ...] = (GENERAL,)
    """JSONL files whose rows have a `text` (and a `domain`), or a `question`, `choices` and an `answer` (and a
    `suite`); one or a list. `general` comes with the package: ten domains of text and five suites. Empty: nothing is
    measured."""
    rows: int = Field(64, ge=1)
    """Texts of a domain and questions of a suite that are scored at most, the first ones."""
    max_length: int = Field(256, ge=8)
    """Tokens of a text that are scored at most."""
    every_steps: int | None = Field(None, ge=1)
    """Score a few texts of each domain after so many updates. Without it: at evaluations, as many as cost less than 2 %
    of the training."""
    rows_between: int = Field(1, ge=1)
    """Texts of each domain that are scored while the training goes on."""
    warn_below: float = Field(0.98, ge=0, le=1)
    """A warning says that something was lost where the whole interval of the retention lies below this."""

    @field_validator("sources", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        listed = (value,) if isinstance(value, str) else value
        if isinstance(listed, (list, tuple)) and NONE in listed:
            if len(listed) > 1:
                raise ValueError("`none` stands alone: name files, or `none`")
            return ()
        return listed

    @model_validator(mode="after")
    def _nothing_beside_none(self) -> RetentionConfig:
        fields = type(self).model_fields
        changed = [n for n, f in fields.items() if n != "sources" and getattr(self, n) != f.default]
        if not self.sources and changed:
            raise ValueError(
                f"without `sources` nothing is measured: leave `{changed[0]}` out, or name what to measure"
            )
        return self

    @property
    def on(self) -> bool:
        """Whether anything is measured."""
        return bool(self.sources)


class EvaluateConfig(Config):
    """The `evaluate` section of a recipe."""

    choices: tuple[str, ...] = ()
    """The possible answers of a classification. The model's own likelihood of each decides, so that every row gets an
    answer; accuracy, macro-F1 and the confusion matrix follow."""
    metrics: tuple[TextMetric, ...] = ()
    """Metrics over generated answers, for tasks without fixed choices. The share that stopped by itself and the mean
    length come with any of them."""
    every_steps: int | None = Field(None, ge=1)
    """Score the validation rows after this many updates. Without it: ten times in a run. The end is always scored."""
    batch_tokens: int | None = Field(None, ge=1)
    """Tokens of one forward pass while scoring; speed and memory only. Without it 1,024 on a CPU (for an encoder
    4,096), 16,384 on a GPU."""
    speed: bool = False
    """Measure latency and throughput of the tuned model at batch sizes 1 and 32 at the end of a run, some seconds more.
    Only for models that choose one of several classes. `burnish evaluate` measures it unasked, of generation too."""
    samples: int = Field(6, ge=0)
    """Generations of both models on held-out rows that the report shows side by side."""
    generate: GenerateConfig = GenerateConfig()
    """How answers are generated, for `metrics` and `samples`."""
    seed: int = Field(0, ge=0)
    """Seed of the bootstrap intervals."""
    retention: RetentionConfig = RetentionConfig()
    """What the model knew before and is to know still."""

    @field_validator("retention", mode="before")
    @classmethod
    def _retention_shorthand(cls, value: Any) -> Any:
        if value is None or value is False:
            return {"sources": ()}
        return {"sources": value} if isinstance(value, (str, list, tuple)) else value

    @field_validator("choices")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        stripped = [choice.strip() for choice in value]
        if len(value) == 1:
            raise ValueError("a classification needs at least two choices")
        if "" in stripped or len(set(stripped)) < len(stripped):
            raise ValueError("choices must be distinct and not empty")
        return tuple(stripped)
