"""One run of a comparison, in a process of its own, so that its peak of memory is its own: called by ``process.py``."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from burnish.compare.latency import latencies
from burnish.compare.race import race
from burnish.compare.statistics import METRICS
from burnish.compare.study import Pruning, running_trial
from burnish.core.config import build
from burnish.core.errors import BurnishError, out_of_memory
from burnish.core.events import Action, Event, Stage, Started, Stepped
from burnish.core.files import finite
from burnish.train.config import RunConfig
from burnish.train.folder import RunFolder
from burnish.train.job import Cadence
from burnish.train.loop import train
from burnish.train.lr_range import range_test
from burnish.train.run import make_job, start_run
from burnish.train.score import Scorer
from burnish.train.setup import set_up
from burnish.train.state import TrainState

MARK = "COMPARE "
PACE_STEPS = 6


def tell(**values: Any) -> None:
    """One line for the parent."""
    print(MARK + json.dumps(values), flush=True)


class Teller:
    """Passes stages and updates on, and remembers how long updates took."""

    def __init__(self) -> None:
        self.total = 0
        self.seconds: list[float] = []

    def __call__(self, event: Event) -> None:
        """An event of the run."""
        if isinstance(event, Started):
            self.total = event.total_steps
        elif isinstance(event, Stage):
            tell(stage=event.name)
        elif isinstance(event, Stepped):
            self.seconds.append(event.metrics["seconds"])
            tell(step=event.step, total=self.total)


def run(config: RunConfig, *, timed: bool = True) -> None:
    """Train, score and hand over as `burnish run` does, then time forward passes where that is wanted."""
    result = start_run(config, force=True, callbacks=[Teller()])
    if result.reason == "interrupted":
        raise KeyboardInterrupt
    folder = RunFolder(result.folder)
    shutil.rmtree(folder.checkpoints, ignore_errors=True)  # of a finished run; they can be several models large
    if timed:
        tell(stage="timing forward passes")
    folder.write("latency.json", _timed(folder.path) if timed else {})
    tell(done=True)


def score(config: RunConfig) -> None:
    """``run`` without the timing."""
    run(config, timed=False)


def _timed(path: Path) -> dict[str, Any]:
    try:
        return latencies(path)
    except (BurnishError, RuntimeError, TypeError, ValueError) as error:
        return {"failed": str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}


def pace(config: RunConfig) -> None:
    """Median seconds of an update: a few of them, with nothing around."""
    steps = config.train.model_copy(update={"max_steps": PACE_STEPS})
    setup = set_up(config.model_copy(update={"train": steps}))
    made = make_job(setup, Scorer(setup, []), RunFolder(Path("nowhere")))
    job = replace(made, cadence=Cadence(), evaluate=lambda: {"loss": 0.0}, save=lambda state: Path("nowhere"))
    heard = Teller()
    train(job, TrainState(), [heard])
    tell(pace=statistics.median(heard.seconds[1:] or heard.seconds))


def stretch(config: RunConfig, *, until: float, fresh: bool, least_rows: int = 0) -> None:
    """Train a part of a trial."""
    if race(config, until, fresh=fresh, heard=Teller(), least_rows=least_rows) is None:
        raise KeyboardInterrupt
    tell(done=True)


def find_range(config: RunConfig, *, updates: int, share: float) -> None:
    """A range test of the learning rate."""
    tell(range=finite(range_test(config, updates=updates, share=share, callbacks=[Teller()]).to_json()))


def searched(config: RunConfig, *, store: str, study: str, pruner: str, trial: int, metric: str) -> None:
    """Train a trial of a search, which its pruner may end."""
    pruning, heard = Pruning(running_trial(store, study, pruner, trial), metric), Teller()

    def both(event: Event) -> Action | None:
        heard(event)
        return pruning(event)

    stand = race(config, 1.0, fresh=True, heard=both)
    if stand is None:
        raise KeyboardInterrupt
    values = [value for _, value in pruning.values]
    best = (max if METRICS[metric][1] else min)(values) if values else None
    tell(value=best, pruned=pruning.pruned)


MODES: dict[str, Callable[..., None]] = {
    "run": run,
    "score": score,
    "pace": pace,
    "stretch": stretch,
    "range": find_range,
    "searched": searched,
}


def main(mode: str, recipe: Path, options: str = "{}") -> int:
    """Do one thing; a refusal becomes one line."""
    try:
        config = build(RunConfig, json.loads(recipe.read_text(encoding="utf-8")), where=str(recipe))
        MODES[mode](config, **json.loads(options))
    except BurnishError as error:
        tell(failed={"what": error.what, "where": error.where, "fix": error.fix})
        return error.exit_code
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        tell(failed={"what": "memory ran out", "where": "", "fix": "lower `batches.micro_batch_tokens`"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
