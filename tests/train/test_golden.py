"""Twenty updates on the CPU against a recorded curve: a change of the mathematics shows here first.

The curve is recorded by ``python -m tests.train.test_golden`` and is to be recorded anew only together with a change
that is meant to change it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from burnish.core.files import read_lines
from burnish.train.run import start_run
from tests.support.recipes import configured

CURVES = Path(__file__).with_name("golden.json")


def curve(folder: Path, method: str) -> dict[str, list[float]]:
    """Loss and gradient norm of 20 updates, and the validation losses."""
    train = {"max_steps": 20, "learning_rate": 0.005, "warmup_ratio": 0.1, "weight_decay": 0.01}
    settings = {"adapter": method, "train": train, "evaluate": {"every_steps": 10, "samples": 0}}
    lines = read_lines(start_run(configured(folder, **settings)).folder / "metrics.jsonl")
    steps = [line for line in lines if line["kind"] == "train"]
    return {
        "loss": [line["loss"] for line in steps],
        "grad_norm": [line["grad_norm"] for line in steps],
        "learning_rate": [line["learning_rate"] for line in steps],
        "validation": [line["loss"] for line in lines if line["kind"] == "validation"],
    }


@pytest.mark.parametrize("method", ["lora", "full"])
def test_golden_curve(tmp_path: Path, method: str) -> None:
    """Equal to 0.2 %: processors differ in the order of their sums, and twenty AdamW updates carry that on."""
    golden = json.loads(CURVES.read_text())[method]
    found = curve(tmp_path, method)
    for name, values in golden.items():
        assert found[name] == pytest.approx(values, rel=2e-3), name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        curves = {"lora": curve(Path(one), "lora"), "full": curve(Path(two), "full")}
    CURVES.write_text(json.dumps(curves, indent=1) + "\n")
