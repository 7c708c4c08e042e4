"""`burnish verify`: read a run back and check that its files hold what was trained."""

from __future__ import annotations

import typer

from burnish.cli.options import Json, RunPath

NAME = "verify"


def command(run: RunPath, json: Json = False) -> int:
    """Check the checkpoints' checksums, the tensors that were handed over, and their logits; exit code 3 on a fault."""
    import json as encoder
    from dataclasses import asdict

    from burnish.train.verify import verify_run

    checks = verify_run(run)
    if json:
        typer.echo(encoder.dumps([asdict(check) for check in checks]))
    else:
        for check in checks:
            typer.secho("✓ " if check.passed else "✗ ", fg="green" if check.passed else "red", nl=False)
            typer.echo(f"{check.name}: {check.detail}")
    return 0 if all(check.passed for check in checks) else 3
