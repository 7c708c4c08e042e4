"""What is measured, and how often."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from burnish.core.config import Config
from burnish.models.generate import GenerateConfig

TextMetric = Literal["exact_match", "squad", "bleu", "chrf", "rouge", "distinct"]


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
    """Tokens of one forward pass while scoring; speed and memory only. Without it 1,024 on a CPU, 16,384 on a GPU."""
    speed: bool = False
    """Measure latency and throughput of the tuned model at batch sizes 1 and 32 at the end of a run, some seconds more.
    Only for models that choose one of several classes. `burnish evaluate` measures it unasked, of generation too."""
    samples: int = Field(6, ge=0)
    """Generations of both models on held-out rows that the report shows side by side."""
    generate: GenerateConfig = GenerateConfig()
    """How answers are generated, for `metrics` and `samples`."""
    seed: int = Field(0, ge=0)
    """Seed of the bootstrap intervals."""

    @field_validator("choices")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        stripped = [choice.strip() for choice in value]
        if len(value) == 1:
            raise ValueError("a classification needs at least two choices")
        if "" in stripped or len(set(stripped)) < len(stripped):
            raise ValueError("choices must be distinct and not empty")
        return tuple(stripped)
