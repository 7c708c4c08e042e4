"""An update that was refused: its batches and weights are kept, and can be looked at again."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from burnish.core.errors import TrainingStopped, UserError
from burnish.core.files import disk_errors, make_readable
from burnish.core.types import Batch
from burnish.evaluate.loss import owners_of
from burnish.models.fuse import unfuse
from burnish.ops.units import UNIT_LOSSES
from burnish.train.folder import RunFolder, open_run
from burnish.train.handover import read_recipe
from burnish.train.loop import to_device
from burnish.train.setup import Setup, set_up
from burnish.train.state import TrainState

NAME = "stopped"
_BATCH, _WEIGHTS, _NOTE = "batch.safetensors", "trainable.safetensors", "stopped.json"
_PLAIN = ("segment_lengths", "row_ids", "tasks")
_SOURCE = "source"


def keep_stopped(
    folder: RunFolder,
    trainable: Sequence[tuple[str, Tensor]],
    state: TrainState,
    batches: Sequence[Batch],
    stop: TrainingStopped,
) -> None:
    """Write the micro-batches of the refused update and the trained weights before it to ``stopped/``."""
    target = folder.path / NAME
    tensors: dict[str, Tensor] = {}
    plain: list[dict[str, Any]] = []
    for number, batch in enumerate(batches):
        items = {k: v for k, v in batch.items() if isinstance(v, Tensor)}
        tensors |= {f"{number}.{key}": value.detach().cpu().contiguous() for key, value in items.items()}
        told: dict[str, Any] = {key: list(batch[key]) for key in _PLAIN if key in batch}  # type: ignore[literal-required]
        plain.append(told | ({_SOURCE: batch["source"]} if "source" in batch else {}))
    note = {"step": state.step, "what": stop.what, "where": stop.where, "fix": stop.fix, "batches": plain}
    with disk_errors(target):
        temporary = Path(tempfile.mkdtemp(dir=folder.path, prefix=".stopped-"))
        save_file(tensors, temporary / _BATCH)
        save_file({n: p.detach().cpu().contiguous().clone() for n, p in trainable}, temporary / _WEIGHTS)
        (temporary / _NOTE).write_text(json.dumps(note, indent=2), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        make_readable(temporary)
        os.replace(temporary, target)


@dataclass
class Replay:
    """What a refused update does when it is computed again.

    Attributes:
        step: The update, counted from 1.
        what: Why it was refused.
        rows: Every row: its number, its ``source`` where it is not the task's (``replay``), its trained tokens, and its
            mean loss (None where that is not finite).
        weights: Names of weights that hold NaN or infinity before anything is computed.
        modules: The first modules whose output is not finite although their input is, in the order of the forward pass.
        gradients: Names of trained tensors whose gradient is not finite.
        grad_norm: Norm of all gradients, None where it is not finite.
    """

    step: int
    what: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    gradients: list[str] = field(default_factory=list)
    grad_norm: float | None = None

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def replay(path: Path) -> Replay:
    """Compute the refused update of a run again and say where it goes wrong. Nothing is changed on disk.

    Raises:
        UserError: The run has no refused update.
    """
    folder = open_run(path)
    place = folder.path / NAME
    if not (place / _NOTE).is_file():
        raise UserError("no update of this run was refused", where=str(place), fix="name a run that was stopped")
    note = json.loads((place / _NOTE).read_text(encoding="utf-8"))
    setup = set_up(read_recipe(folder))
    unfuse(setup.loaded.model)  # fused layers do not call their modules, and the faulty one is to be named
    _restore(setup, load_file(place / _WEIGHTS))
    found = Replay(note["step"] + 1, note["what"])
    found.weights = [n for n, p in setup.loaded.model.named_parameters() if not bool(torch.isfinite(p).all())]
    for batch in _batches(place, note):
        _look(setup, to_device(batch, setup.device), found)
    grads = [(n, p.grad) for n, p in setup.trainable if p.grad is not None]
    found.gradients = [n for n, g in grads if not bool(torch.isfinite(g).all())]
    norm = torch.sqrt(sum((g.double().pow(2).sum() for _, g in grads), torch.zeros((), dtype=torch.float64)))
    found.grad_norm = float(norm) if bool(torch.isfinite(norm)) else None
    return found


def _restore(setup: Setup, saved: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in setup.trainable:
            parameter.copy_(saved[name])


def _batches(place: Path, note: dict[str, Any]) -> Iterator[Batch]:
    tensors = load_file(place / _BATCH)
    for number, plain in enumerate(note["batches"]):
        start = f"{number}."
        batch: Any = {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}
        yield batch | {key: value if key == _SOURCE else tuple(value) for key, value in plain.items()}


def _look(setup: Setup, batch: Batch, found: Replay) -> None:
    """Forward and backward of one micro-batch, as in the loop but for the scale of the loss."""
    setup.loaded.model.train()
    # the backward pass may compute modules again, so it belongs inside the block
    with first_non_finite(setup.loaded.model) as modules:
        with setup.precision.context(setup.device):
            losses, owners = unit_losses(setup, batch)
        losses.sum().backward()
    found.modules += [name for name in modules if name not in found.modules]
    for index, row in enumerate(batch["row_ids"]):
        own = losses.detach().cpu()[owners == index].double()
        mean = float(own.mean()) if len(own) and bool(torch.isfinite(own).all()) else None
        source = {_SOURCE: batch["source"]} if "source" in batch else {}
        found.rows.append({"row": row, **source, "tokens": len(own), "loss": mean})


def unit_losses(setup: Setup, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss of every trained token, or of whatever a head says, and the place of its row in the batch."""
    labels = batch["labels"]
    if setup.config.classifies:
        losses, owners = UNIT_LOSSES[setup.config.task.head](setup.context().class_logits(batch), batch)
        return losses, owners.cpu()
    return setup.context().token_losses(batch), owners_of(batch)[(labels != -100).cpu()]


@contextmanager
def first_non_finite(model: nn.Module, most: int = 5) -> Iterator[list[str]]:
    """Names of the modules that make something that is not finite out of something that is, while the block lasts."""
    found: list[str] = []

    def hook(name: str) -> Any:
        def look(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            made = output[0] if isinstance(output, tuple) else output
            if len(found) < most and not _finite(made) and all(_finite(a) for a in args):
                found.append(name)

        return look

    leaves = [(n, m) for n, m in model.named_modules() if not list(m.children()) or hasattr(m, "weight")]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or not value.is_floating_point() or bool(torch.isfinite(value).all())
