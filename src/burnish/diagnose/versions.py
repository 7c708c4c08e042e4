"""The versions of the libraries: found here, against those that Burnish is tested with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from burnish.core.findings import Finding

TESTED = Path(__file__).with_name("tested_versions.json")
"""Generated from pyproject.toml and constraints.txt by tools/make_docs.py."""


@dataclass(frozen=True)
class Package:
    """A library that Burnish uses.

    Attributes:
        name: Its name as it is installed.
        found: The version found here, None when it is absent.
        tested: The version that the tests run with, None when they do without it.
        minimum: The oldest version that is supported, None for any.
        extra: The optional part of Burnish that needs it, None when Burnish cannot work without it.
    """

    name: str
    found: str | None
    tested: str | None
    minimum: str | None
    extra: str | None

    def to_json(self) -> dict[str, Any]:
        """The package as a JSON object."""
        return asdict(self)


def installed(name: str) -> str | None:
    """The installed version of a package, None without one."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def packages(table: Path = TESTED, lookup: Callable[[str], str | None] = installed) -> list[Package]:
    """Every library of the table of tested versions, with the version that ``lookup`` finds here."""
    rows = json.loads(table.read_text(encoding="utf-8"))
    return [Package(name=row["name"], found=lookup(row["name"]), **_limits(row)) for row in rows]


def version_findings(found: Sequence[Package]) -> list[Finding]:
    """What is missing (stop), too old (stop, or warning for an extra) and different from the tested versions (note)."""
    findings = [_missing(p) for p in found if p.found is None and p.extra is None]
    findings += [_too_old(p) for p in found if _older(p.found, p.minimum)]
    different = [p for p in found if p.found and p.tested and release(p.found) != release(p.tested)]
    different = [p for p in different if not _older(p.found, p.minimum)]
    if different:
        shown = ", ".join(f"{p.name} {p.found} (tested: {p.tested})" for p in different)
        findings.append(
            Finding(
                "note",
                "versions.untested",
                f"other versions than the tested ones: {shown}",
                why="They are within the supported range; a fault that only appears here may come from them.",
                fix="to have the tested ones: pip install " + " ".join(f"{p.name}=={p.tested}" for p in different),
                evidence={p.name: {"found": p.found, "tested": p.tested} for p in different},
            )
        )
    return findings


def release(version: str) -> tuple[int, ...]:
    """The numbers of a release, for comparing: `2.13.0+cpu` is (2, 13); zeros at the end count nothing."""
    match = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version)
    numbers = [int(part) for part in match[1].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _limits(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("tested", "minimum", "extra")}


def _older(found: str | None, minimum: str | None) -> bool:
    return bool(found and minimum and release(found) < release(minimum))


def _install(package: Package) -> str:
    wanted = f"=={package.tested}" if package.tested else f">={package.minimum}" if package.minimum else ""
    return f"pip install '{package.name}{wanted}'"


def _missing(package: Package) -> Finding:
    return Finding("stop", "versions.missing", f"{package.name} is not installed", package.name, fix=_install(package))


def _too_old(package: Package) -> Finding:
    needed_by = f"the extra `{package.extra}`" if package.extra else "Burnish"
    return Finding(
        "warning" if package.extra else "stop",
        "versions.too-old",
        f"{package.name} {package.found} is too old: {needed_by} needs {package.minimum} or newer",
        package.name,
        fix=_install(package),
    )
