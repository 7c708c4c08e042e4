"""Start ``worker.py`` in a fresh process and listen to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MARK = "COMPARE "
Heard = Callable[[Mapping[str, Any]], None]
WORKER = "burnish.compare.worker"


def call(
    mode: str, recipe: Mapping[str, Any], heard: Heard = lambda told: None, **options: float | bool | str
) -> dict[str, Any]:
    """Run the worker to its end and return everything that it told; ``failed`` says why it did not finish.

    Args:
        mode: A name in ``worker.MODES``.
        recipe: The values of the recipe.
        heard: Called with every line.
        options: Further arguments of the mode.
    """
    source = str(Path(__file__).parents[2])
    paths = [source, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="burnish-compare-") as name, tempfile.TemporaryFile("w+") as errors:
        path = Path(name) / "recipe.json"
        path.write_text(json.dumps(recipe), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER, mode, str(path), json.dumps(options)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(MARK):
                    said = json.loads(line.removeprefix(MARK))
                    told |= said
                    heard(said)
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        errors.seek(0)
        lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
    if code and "failed" not in told:
        last = lines[-1][:300] if lines else f"ended with code {code} and no word"
        told["failed"] = {"what": last, "where": "", "fix": "run this variant alone to see more: `burnish run`"}
    return told
