"""Versions found against versions tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from burnish.diagnose.versions import Package, packages, release, version_findings


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.13.0+cpu", (2, 13)), ("5.23.0", (5, 23)), ("1!2.0.1rc1", (2, 0, 1)), ("v3", (3,)), ("unknown", ())],
)
def test_release(version: str, numbers: tuple[int, ...]) -> None:
    assert release(version) == numbers


@pytest.mark.parametrize(
    ("package", "code", "severity"),
    [
        (Package("torch", None, "2.13.0", "2.11", None), "versions.missing", "stop"),
        (Package("torch", "2.9.1", "2.13.0", "2.11", None), "versions.too-old", "stop"),
        (Package("wandb", "0.1", None, "0.20", "trackers"), "versions.too-old", "warning"),
        (Package("torch", "2.12.0", "2.13.0", "2.11", None), "versions.untested", "note"),
    ],
)
def test_each_fault_is_named(package: Package, code: str, severity: str) -> None:
    (finding,) = version_findings([package])
    assert (finding.code, finding.severity) == (code, severity)
    assert package.name in finding.what and "pip install" in finding.fix


def test_nothing_to_say() -> None:
    fine = [Package("torch", "2.13.0+cpu", "2.13.0", "2.11", None), Package("mlflow", None, None, None, "trackers")]
    assert version_findings(fine) == []


def test_the_table_is_read_with_what_is_found(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    table.write_text(json.dumps([{"name": "x", "tested": "1.0", "minimum": "0.9", "extra": None}]))
    assert packages(table, lambda name: "1.1") == [Package("x", "1.1", "1.0", "0.9", None)]
    assert {"torch", "transformers"} <= {package.name for package in packages()}
