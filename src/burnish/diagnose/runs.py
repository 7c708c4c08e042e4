"""Series from what is on disk: a run folder, the `trainer_state.json` of `transformers`, TensorBoard's event files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from burnish.core.errors import UserError
from burnish.core.files import read_lines
from burnish.core.names import nearest
from burnish.data.batches import epoch_order
from burnish.diagnose.series import Facts, Series

STATE, LOG = "trainer_state.json", "metrics.jsonl"
EVENTS = "events.out.tfevents.*"
TRAIN_TAGS = {
    "loss": ("train/loss", "loss", "train_loss", "train/train_loss", "training/loss"),
    "grad_norm": ("train/grad_norm", "grad_norm"),
    "learning_rate": ("train/learning_rate", "learning_rate", "train/lr", "lr"),
    "epoch": ("train/epoch", "epoch"),
}
"""Names under which trainers write their curves; the first that is there counts."""
VALIDATION_TAGS = ("eval/loss", "validation/loss", "eval_loss", "val_loss", "val/loss", "valid/loss")


def read_series(path: Path) -> Series:
    """The series of whatever lies at a path.

    Args:
        path: A run folder, a `trainer_state.json` or a folder with one, an event file or a folder with some.

    Raises:
        UserError: There is nothing of the kind, or it cannot be read.
    """
    for fits, read in READERS:
        found = fits(path)
        if found is not None:
            return read(found)
    what = "there is nothing to diagnose" if path.exists() else "there is no such run"
    fix = f"name a run folder, a folder with {STATE}, or TensorBoard events"
    if path.parent.is_dir() and not path.exists():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()])
        fix = f"nearest: {path.parent / near[0]}" if near else fix
    raise UserError(what, where=str(path), fix=fix)


# --- Burnish ----------------------------------------------------------------------------------------------------------


def read_run(folder: Path) -> Series:
    """The series of a run folder, finished or not."""
    recipe, model, data = _yaml(folder / "recipe.yaml"), _json(folder / "model.json"), _json(folder / "data.json")
    log = read_lines(folder / LOG) if (folder / LOG).is_file() else []
    return Series.of((line for line in log if isinstance(line, dict)), run_facts(recipe, model, data))


def run_facts(recipe: Mapping[str, Any], model: Mapping[str, Any], data: Mapping[str, Any]) -> Facts:
    """What the files of a run say besides its curves; whatever they lack is left open."""
    train = _part(recipe, "train")
    labels = _part(model, "head").get("labels")
    chance, text = _number(model.get("chance_loss")), model.get("task") in (None, "text")
    total = _number(model.get("updates"))
    size = _number(train.get("batch_size"))
    return Facts(
        total=int(total) if total else None,
        chance=chance,
        uniform=math.log(len(labels)) if isinstance(labels, list) and len(labels) > 1 and not text else chance,
        text=text,
        max_grad_norm=_number(train.get("max_grad_norm")),
        batch_size=int(size) if size else None,
        rate=_number(_part(model, "learning_rate").get("value")),
        rows=_rows(recipe, data, int(size)) if size else None,
    )


def _rows(recipe: Mapping[str, Any], data: Mapping[str, Any], size: int) -> Callable[[int], Sequence[int]] | None:
    """The rows of an update follow from seed and step, so they can be named after the run."""
    count = _number(_part(_part(data, "splits"), "train").get("rows"))
    seed, shuffle = recipe.get("seed"), _part(recipe, "data").get("shuffle", True)
    if not count or not isinstance(seed, int):
        return None
    per_epoch = math.ceil(count / size)

    def rows(step: int) -> Sequence[int]:
        epoch, index = divmod(step - 1, per_epoch)
        order = epoch_order(int(count), seed=seed, epoch=epoch, shuffle=bool(shuffle))
        return [int(row) for row in order[index * size : (index + 1) * size]]

    return rows


# --- transformers -----------------------------------------------------------------------------------------------------


def read_trainer_state(path: Path) -> Series:
    """The series of a `trainer_state.json`, whose `log_history` has lines of training and of evaluation mixed.

    A loss there is the mean over the updates since the line before it.
    """
    state = _json(path)
    history = state.get("log_history")
    if not isinstance(history, list):
        raise UserError("it has no `log_history`", where=str(path), fix="name the file that the Trainer writes")
    log: list[dict[str, Any]] = []
    for row in (row for row in history if isinstance(row, dict)):
        common = {"step": row.get("step"), "epoch": row.get("epoch")}
        if "loss" in row:
            log.append({"kind": "train", **common, "loss": row["loss"], "grad_norm": row.get("grad_norm")})
        if "eval_loss" in row:
            values = {key.removeprefix("eval_"): value for key, value in row.items() if key.startswith("eval_")}
            log.append({"kind": "validation", **common, **values})
    rates = [rate for row in history if isinstance(row, dict) and (rate := _number(row.get("learning_rate")))]
    total = _number(state.get("max_steps"))
    # `train_batch_size` is left alone: it is that of one device and one step of accumulation, which is no update
    facts = Facts(total=int(total) if total and total > 0 else None, rate=max(rates, default=None), text=True)
    return Series.of(log, facts)


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def read_events(folder: Path) -> Series:
    """The series of TensorBoard's event files, read with `tensorboard` itself.

    Raises:
        UserError: `tensorboard` is not installed, or the files hold no training loss.
    """
    scalars = read_scalars(folder)
    chosen = {key: next((tag for tag in tags if tag in scalars), None) for key, tags in TRAIN_TAGS.items()}
    if chosen["loss"] is None:
        raise UserError(
            "the events hold no training loss under a name that is known",
            where=str(folder),
            fix=f"known: {', '.join(TRAIN_TAGS['loss'])}; there: {', '.join(sorted(scalars)[:12]) or 'nothing'}",
        )
    columns = {key: dict(scalars[tag]) for key, tag in chosen.items() if tag}
    log: list[dict[str, Any]] = [
        {"kind": "train", "step": step, **{key: column.get(step) for key, column in columns.items()}}
        for step in columns["loss"]
    ]
    tag = next((tag for tag in VALIDATION_TAGS if tag in scalars), None)
    log += [{"kind": "validation", "step": step, "loss": value} for step, value in (scalars[tag] if tag else [])]
    return Series.of(log, Facts(rate=max(columns.get("learning_rate", {}).values(), default=None), text=True))


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every scalar in event files."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise UserError(
            "TensorBoard's files are read with `tensorboard`, which is not installed",
            where=str(folder),
            fix="pip install 'burnish[trackers]', or pip install tensorboard",
        ) from error
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return {tag: [(int(e.step), float(e.value)) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


# --- which of them ----------------------------------------------------------------------------------------------------


def _run_at(path: Path) -> Path | None:
    return path if (path / LOG).is_file() else None


def _state_at(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix == ".json" else None
    if (path / STATE).is_file():
        return path / STATE
    # the Trainer writes it into each checkpoint; the newest knows most
    found = sorted(path.glob(f"checkpoint-*/{STATE}"), key=lambda p: int(p.parent.name.rpartition("-")[2] or 0))
    return found[-1] if found else None


def _events_at(path: Path) -> Path | None:
    if path.is_file():
        return path if ".tfevents." in path.name else None
    found = sorted(path.rglob(EVENTS)) if path.is_dir() else []
    return found[-1].parent if found else None


READERS: tuple[tuple[Callable[[Path], Path | None], Callable[[Path], Series]], ...] = (
    (_run_at, read_run),
    (_state_at, read_trainer_state),
    (_events_at, read_events),
)
"""What may lie at a path, the most telling first: says where, and reads it."""


def _part(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key)
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is absent."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"this is no JSON: {error}", where=str(path), fix="name another file") from None
    if not isinstance(value, dict):
        raise UserError("this is no JSON object", where=str(path), fix="name another file")
    return value


def _yaml(path: Path) -> dict[str, Any]:
    """The recipe of a run; a damaged one leaves gaps, since the curves are beside it."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}
