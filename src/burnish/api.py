"""The same as the command line, for Python: load a recipe, run it, resume it, use what it made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from burnish.core.config import build
from burnish.core.events import Callback
from burnish.core.processes import is_main
from burnish.forecast.finding import Foresight
from burnish.recipes import find_recipe
from burnish.report.page import build_report
from burnish.train.config import RunConfig, anchor_paths, load_run
from burnish.train.run import RunResult, resume_run, start_run


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe file, or an embedded recipe by its name, with overrides such as ``train.num_epochs=2``.

    Raises:
        UserError: There is no such recipe, or a setting is wrong.
    """
    return load_run(find_recipe(str(recipe)), overrides)


def run(
    config: RunConfig | str | Path | dict[str, Any], *, force: bool = False, callbacks: Sequence[Callback] = ()
) -> RunResult:
    """Run a recipe from end to end: check, train, evaluate base and tuned, hand over, report.

    Args:
        config: A configuration, a recipe file, the name of an embedded recipe, or a plain dictionary.
        force: Replace an existing run of the same name.
        callbacks: Called with every event; may return ``Stop``, ``Save`` or ``Evaluate``.

    Raises:
        UserError: The recipe, model or data is refused; nothing was overwritten.
        TrainingStopped: The run was stopped to protect the result.
    """
    if isinstance(config, (str, Path)):
        config = load_recipe(config)
    elif isinstance(config, dict):
        config = build(RunConfig, anchor_paths(config, Path.cwd()))
    foresight = Foresight()
    return _reported(
        start_run(config, force=force, callbacks=callbacks, foresee=foresight, plan=lambda: foresight.plan)
    )


def resume(folder: str | Path, *, callbacks: Sequence[Callback] = ()) -> RunResult:
    """Continue the run in ``folder`` from its newest whole checkpoint.

    Raises:
        UserError: There is no run there, its data has changed, or it is already complete.
    """
    return _reported(resume_run(Path(folder), callbacks=callbacks))


def _reported(result: RunResult) -> RunResult:
    if is_main():
        build_report(result.folder)
    return result
