"""`burnish doctor`: what is installed and what this machine can do, each shortcoming with its fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from burnish.cli.display import COLOURS
from burnish.cli.options import Json
from burnish.core.findings import Finding

NAME = "doctor"


def command(json: Json = False) -> int:
    """Show versions found against tested, devices, CPU features, measured speed, memory and disks, with fixes.

    Leaves with 0 when Burnish can work here, and with 1 when something is missing without which it cannot.
    """
    from burnish.diagnose.versions import packages, version_findings

    found = packages()
    facts: dict[str, Any] = {"versions": [package.to_json() for package in found]}
    findings = version_findings(found)
    usable = all(finding.severity != "stop" for finding in findings)
    if usable:  # the machine is examined with PyTorch, which has to be here for that
        from burnish.diagnose.machine import examine, machine_findings

        machine = examine()
        facts.update(machine)
        findings += machine_findings(machine)
    if json:
        _print_json({"ok": usable, **facts, "findings": [finding.to_json() for finding in findings]})
    else:
        _print_tables(facts, findings)
    return 0 if usable else 1


def _print_json(value: dict[str, Any]) -> None:
    import json

    from burnish.core.files import finite

    typer.echo(json.dumps(finite(value), ensure_ascii=False))


def _print_tables(facts: dict[str, Any], findings: Sequence[Finding]) -> None:
    console = Console(highlight=False)
    console.print(_versions(facts), "")
    if "system" in facts:
        console.print(_machine(facts), "")
    for finding in findings:
        console.print(f"[{COLOURS[finding.severity]}]{finding.severity}[/] {escape(finding.what)}", soft_wrap=True)
        details = {"where": finding.where, "why": finding.why, "fix": finding.fix}
        for name, text in details.items():
            if text:
                console.print(f"  {name}: {escape(text)}", soft_wrap=True)
    if not findings:
        console.print("Nothing to mend.")


def _versions(facts: dict[str, Any]) -> Table:
    table = Table("package", "found", "tested", "at least", box=None, title_justify="left", title="Versions")
    for row in facts["versions"]:
        absent = f"absent (extra `{row['extra']}`)" if row["extra"] else "absent"
        table.add_row(row["name"], row["found"] or absent, row["tested"] or "", row["minimum"] or "")
    return table


def _machine(facts: dict[str, Any]) -> Table:
    table = Table(box=None, title_justify="left", title="Machine", show_header=False)
    for name, value in _machine_rows(facts):
        table.add_row(name, escape(value))
    return table


def _machine_rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    system, processor, speed, memory = facts["system"], facts["processor"], facts["speed"], facts["memory"]
    yield "Python", f"{system['python']} on {system['platform']}"
    features = ", ".join(processor["features"]) or "unknown"
    yield "processor", f"{processor['cores']} cores, {processor['threads']} threads; {features}"
    for device in facts["devices"]:
        yield "GPU", f"{device['name']}, {_gib(device['free'])} free of {_gib(device['total'])}"
    if not facts["devices"]:
        yield "GPU", "none"
    if speed["fp32"]:
        rates = " and ".join(f"{name} {speed[name] / 1e9:.0f} GFLOP/s" for name in ("fp32", "bf16"))
        yield "products", f"{rates} on the {speed['device'].upper()}"
    if speed["int8"]:
        yield "", f"with a frozen matrix in 8 bits {speed['int8'] / 1e9:.0f} Gop/s: `train.precision=int8`"
    yield (
        "kernels",
        f"none: {facts['kernels']['missing']}" if facts["kernels"]["missing"] else "compiled for this machine",
    )
    limit = " (limit of this container)" if memory["container"] else ""
    yield "memory", f"{_gib(memory['available'])} free of {_gib(memory['total'])}{limit}"
    for disk in facts["disks"]:
        held = f"; holds {_gib(disk['size'])}" if disk["size"] else ""
        yield f"disk, {disk['use']}", f"{_gib(disk['free'])} free at {disk['path']}{held}"
    yield "hub", "offline" if facts["hub"]["offline"] else facts["hub"]["endpoint"]


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
