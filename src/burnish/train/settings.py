"""What a run decided for its user, each decision with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import nn

from burnish.adapters.attach import Attached
from burnish.core.findings import Finding
from burnish.data.batches import Layout
from burnish.models.load import Loaded
from burnish.objectives.config import TextTask
from burnish.train.config import RunConfig
from burnish.train.heads import choose_pooling
from burnish.train.precision import Precision


class Setup(Protocol):
    """What is asked of a recipe that was made ready (`setup.Setup`)."""

    @property
    def config(self) -> RunConfig: ...
    @property
    def loaded(self) -> Loaded: ...
    @property
    def attached(self) -> Attached: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def fused_layers(self) -> int: ...
    @property
    def learning_rate(self) -> tuple[float, str]: ...
    @property
    def trainable(self) -> list[tuple[str, nn.Parameter]]: ...
    @property
    def head_scales(self) -> Mapping[str, float]: ...


def settings(setup: Setup) -> list[Finding]:
    """What was decided for the user, each with its reason."""
    value, reason = setup.learning_rate
    count = sum(p.numel() for _, p in setup.trainable)
    share = count / max(1, setup.loaded.origin["parameters"])
    formats = setup.precision.to_json()
    return [
        *head_settings(setup),
        *quantization_settings(setup),
        _note("train.learning-rate", f"learning rate {value:g}: {reason}", "train.learning_rate"),
        _note("train.precision", f"computes in {formats['compute']}: {formats['reason']}", "train.precision"),
        _note(
            "train.parameters",
            f"{count:,} parameters are trained ({share:.2%} of the model) "
            f"at {len(setup.attached.sites)} sites; rows are {setup.layout}"
            + (f", {setup.fused_layers} layers are fused" if setup.fused_layers else ""),
            "adapter",
        ),
    ]


def head_settings(setup: Setup) -> list[Finding]:
    """What was decided about a new head."""
    head, task = setup.loaded.classifier, setup.config.task
    if head is None or isinstance(task, TextTask):
        return []
    _, reason = choose_pooling(getattr(task, "pooling", "tokens"), setup.loaded)
    return [
        _note("task.pooling", f"the head reads `{head.pooling}` of the hidden states: {reason}", "task.pooling"),
        _note(
            "task.head",
            f"the head of {_outputs(head.labels)} is new, so before training it answers at chance; it is kept in "
            f"fp32 and learns {max(setup.head_scales.values()):g} times as fast as the rest, which is trained already",
            "task.head_rate_scale",
        ),
    ]


def quantization_settings(setup: Setup) -> list[Finding]:
    """What weights of 4 bits take, part by part, as measured on the loaded tensors."""
    done = setup.loaded.origin.get("quantization")
    if done is None:
        return []
    megabytes = {name: f"{size / 1e6:.1f} MB" for name, size in done["bytes"].items()}
    left = f"; {len(done['skipped'])} maps are left as they were" if done["skipped"] else ""
    what = (
        f"{done['modules']} linear maps are kept in {done['settings']['kind']}: {megabytes['weights']} of weights and "
        f"{megabytes['constants']} of their constants; embeddings, norms, head and biases take {megabytes['rest']} in "
        f"{setup.precision.to_json()['weights']}, together {megabytes['total']}{left}"
    )
    return [_note("model.quantization", what, "model.quantization")]


def _outputs(labels: Sequence[str]) -> str:
    return f"{len(labels)} classes" if len(labels) > 1 else "one number"


def _note(code: str, what: str, where: str) -> Finding:
    return Finding(severity="note", code=code, what=what, where=where)
