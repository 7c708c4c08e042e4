"""Reading a run back, in a process that never saw it train: do the files hold what was trained?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from burnish.adapters.merge import outputs_of
from burnish.adapters.training import handed_over
from burnish.checkpoint.store import CheckpointStore
from burnish.checkpoint.store import verify as fault_of
from burnish.core.errors import BurnishError, TrainingStopped
from burnish.core.files import disk_errors, make_readable
from burnish.core.processes import alone
from burnish.models.load import Loaded
from burnish.models.route import for_task, tasks_of
from burnish.train.ema import averaged
from burnish.train.folder import RunFolder, open_run
from burnish.train.handover import load_handed_over, read_recipe
from burnish.train.precision import DTYPES

PROBE = "probe.safetensors"
PROBE_ROWS, PROBE_LENGTH, KEPT_PLACES = 2, 64, 4
TOLERANCES = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2}
"""Largest difference of a logit, as a share of the largest logit. What the formats' rounding leaves after some dozen
layers lies an order of magnitude below; a tensor that is missing or stale lies above."""


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: What.
        passed: Whether it holds.
        detail: The numbers.
    """

    name: str
    passed: bool
    detail: str


def write_probe(loaded: Loaded, rows: list[list[int]], folder: RunFolder) -> None:
    """Keep what the model in memory makes of a few rows, to hold the files against it."""
    cut = [row[:PROBE_LENGTH] for row in rows[:PROBE_ROWS] if row]
    tensors: dict[str, Tensor] = {}
    for number, ids in enumerate(cut):
        tensors[f"ids.{number}"] = torch.tensor([ids])
        tensors[f"logits.{number}"] = last_logits(loaded, tensors[f"ids.{number}"])
    with disk_errors(folder.path / PROBE):
        save_file(tensors, folder.path / PROBE)
        make_readable(folder.path / PROBE)


def last_logits(loaded: Loaded, ids: Tensor) -> Tensor:
    """[K, V] fp32 logits of the last places of a row; of a classifier the logits of its classes, [1, V]."""
    model = loaded.model
    inputs = {"input_ids": ids.to(model.device), "attention_mask": torch.ones_like(ids).to(model.device)}
    if loaded.kind == "seq2seq":
        inputs["decoder_input_ids"] = inputs["input_ids"].flip(1)
    with for_task(model, next(iter(sorted(tasks_of(model))), None)):
        logits = outputs_of(loaded, inputs)
    last = logits if loaded.classifier is not None else logits[0, -KEPT_PLACES:]
    return last.float().cpu().contiguous()


def verify_run(path: Path) -> list[Check]:
    """Check a run's files: checkpoints against their manifests, what was handed over against the best checkpoint.

    Raises:
        UserError: There is no run, or it has not handed anything over yet.
    """
    folder = open_run(path)
    store = CheckpointStore(folder.checkpoints)
    checks = [_checkpoint(store, step) for step in store.steps()]
    best = (folder.read("best.json") or {}).get("step")
    formats = (folder.read("model.json") or {}).get("precision", {})
    # in the format of the run, so that rounding is that of the model in memory and hides nothing
    weights = DTYPES.get(formats.get("weights", "fp32"), torch.float32)
    loaded = load_handed_over(path, dtype=weights, device=torch.device("cpu"))
    checks.append(_guarded("the model that is handed over loads", lambda: f"{type(loaded.model).__name__} from final/"))
    if best in store.steps():
        ema = read_recipe(folder).checkpoint.ema
        averages = ema is not None and ema.hand_over
        name = "its tensors are those of the best checkpoint" + (", averaged" if averages else "")
        checks.append(_guarded(name, lambda: _tensors(store, best, loaded, averages)))
    if (folder.path / PROBE).is_file():
        computes = formats.get("compute", "fp32")
        checks.append(
            _guarded("its logits are those of the model in memory", lambda: _logits(folder, loaded, computes))
        )
    return checks


def _checkpoint(store: CheckpointStore, step: int) -> Check:
    fault = fault_of(store.path(step))
    return Check(f"{store.path(step).name} is whole", fault is None, fault or "every checksum fits")


def _guarded(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except BurnishError as error:
        return Check(name, False, error.what)


def _tensors(store: CheckpointStore, step: int, loaded: Loaded, averages: bool) -> str:
    groups = store.load(step).tensors
    trained = {**groups["trainable"], **(averaged(groups) if averages else {})}
    saved = handed_over(loaded.model, trained, groups.get("buffers", {}))
    found = dict(loaded.model.named_parameters(remove_duplicate=False))
    found |= dict(loaded.classifier.named()) if loaded.classifier is not None else {}
    missing = sorted(saved.keys() - found.keys())
    if missing:
        raise TrainingStopped(f"{len(missing)} of {len(saved)} trained tensors are not there, such as `{missing[0]}`")
    wrong = [n for n, t in saved.items() if t.shape != found[n].shape or not torch.equal(t.float(), found[n].float())]
    if wrong:
        raise TrainingStopped(f"{len(wrong)} of {len(saved)} trained tensors differ, such as `{wrong[0]}`")
    extra = [n for n in found if ("burnish_adapters" in n or n.startswith("classifier.")) and n not in saved]
    if extra:
        raise TrainingStopped(f"{len(extra)} tensors were not trained in this run, such as `{extra[0]}`")
    return f"{len(saved)} tensors, equal in every bit"


def _logits(folder: RunFolder, loaded: Loaded, precision: str) -> str:
    kept = load_file(folder.path / PROBE)
    worst = 0.0
    for name in (n for n in kept if n.startswith("ids.")):
        before = kept[name.replace("ids", "logits")]
        difference = (last_logits(loaded, kept[name]) - before).abs().max() / before.abs().max()
        worst = max(worst, float(difference)) if bool(torch.isfinite(difference)) else float("inf")
    limit = TOLERANCES[precision]
    text = f"largest difference {worst:.1e} of the largest logit, allowed {limit:.0e}"
    if worst > limit:
        raise TrainingStopped(text)
    return text


def in_fresh_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What Python says and ends with, alone and with this very Burnish, whether it is installed or not."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**alone(), "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


def read_back(folder: Path) -> list[Check]:
    """``verify_run`` in a fresh process, so that nothing in memory can stand in for what is not on disk.

    It takes some seconds, most of them to import PyTorch. Nothing runs beside it: two processes whose threads wait for
    each other on the same cores take longer than one after the other.

    Raises:
        TrainingStopped: The process could not read the run at all.
    """
    answer = in_fresh_process("-m", "burnish.train.verify", str(folder))
    said = json.loads((answer.stdout.splitlines() or ["null"])[-1])
    if isinstance(said, list):
        return [Check(**item) for item in said]
    error = said or {"what": (answer.stderr.strip().splitlines() or ["no message"])[-1], "fix": ""}
    what = f"what was handed over cannot be read back: {error['what']}"
    raise TrainingStopped(what, where=str(folder / "final"), fix=error["fix"])


def refuse_faults(checks: list[Check], folder: Path) -> None:
    """Stop where a check failed.

    Raises:
        TrainingStopped: With every check that failed.
    """
    failed = [check for check in checks if not check.passed]
    if failed:
        raise TrainingStopped(
            "; ".join(f"{check.name}: NO, {check.detail}" for check in failed),
            where=str(folder / "final"),
            fix="do not use these files; `burnish resume` writes them again from the best checkpoint",
        )


def main(path: str) -> None:
    """The other end of ``read_back``."""
    said: list[dict[str, Any]] | dict[str, str]
    try:
        said = [asdict(check) for check in verify_run(Path(path))]
    except BurnishError as error:
        said = {"what": error.what, "fix": error.fix}
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])
