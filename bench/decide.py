"""Do the decisions hold? A rate that a sweep chose against a full grid, and a learning curve against all the data.

    python bench/decide.py rate FOLDER [--model minilm|smollm2] [--seeds 2] [--near 3 --more-seeds 6]
    python bench/decide.py data FOLDER

Everything trains on the tweets of the demo, in processes of its own, and is kept in FOLDER: called again, the program
goes on where it was, and prints what is there when all is done. The validation rows decide in the sweep and choose the
checkpoints; what is compared here is measured on test rows that neither has seen. The best of eight rates with a few
seeds is in part the luckiest one: `--near` trains the best few of them, and the chosen one, with more seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from burnish.api import load_recipe
from burnish.compare.data_need import NeedWanted, arm, data_need
from burnish.compare.outcome import Outcome
from burnish.compare.run import Listener, run_trials
from burnish.compare.standings import value_of
from burnish.compare.statistics import estimate, resampled
from burnish.compare.sweep import SweepWanted, sweep
from burnish.compare.trials import Wanted, prepare
from burnish.compare.variants import Variant
from burnish.train.config import RunConfig

GRID = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3)
QUIET = ["evaluate.retention=none", "evaluate.samples=0"]
MODELS: dict[str, tuple[str, list[str]]] = {
    "minilm": ("sentiment-encoder", ["data.split.validation=300", "data.split.test=1000", *QUIET,
                                     "evaluate.every_steps=78"]),
    "smollm2": (
        "quickstart",
        ["data.train_rows=1000", "data.split.validation=300", "data.split.test=1000", *QUIET, "evaluate.every_steps=62",
         "early_stopping.metric=macro_f1"],
    ),
}  # fmt: skip
METRIC = "macro_f1"
SIZES, TRUTH = (250, 500, 1000, 2000, 4000), 27_000


def told() -> Listener:
    """Says on stderr what is done."""

    def ends(trial: Any, result: Any) -> None:
        failed = f": {result}" if isinstance(result, str) else ""
        print(f"  {trial.folder.name}{failed}", file=sys.stderr, flush=True)

    return Listener(ends=ends)


def trained(config: RunConfig, variants: Sequence[Variant], seeds: int, folder: Path) -> dict[str, list[Outcome]]:
    """Whole trainings with their scores on the test rows, by label."""
    wanted = Wanted(config, variants, seeds, folder.resolve(), timed=False)
    found: dict[str, list[Outcome]] = {}
    run_trials(wanted, prepare(wanted), told(), lambda outcomes, failures: found.update(outcomes))
    return {label: list(runs) for label, runs in found.items()}


def rate_of(rate: float) -> Variant:
    """The recipe with a learning rate."""
    return Variant(f"rate {rate:g}", (), (f"train.learning_rate={rate:g}",))


def rate(folder: Path, model: str, seeds: int, near: int, more_seeds: int) -> dict[str, Any]:
    """The rate that a sweep chooses, against the best of a grid that is trained whole, with every seed."""
    recipe, overrides = MODELS[model]
    config = load_recipe(recipe, overrides)
    found = sweep(SweepWanted(config, (folder / f"sweep-{model}").resolve()), told())
    assert found.best is not None
    chosen = found.best.settings["train.learning_rate"]
    trainings = folder / f"grid-{model}"
    grid = trained(config, [rate_of(one) for one in GRID], seeds, trainings)
    mine = trained(config, [rate_of(chosen)], seeds, trainings)
    updates = sum(int(one.facts["updates"]) for outcomes in grid.values() for one in outcomes)
    found_whole = against(grid, mine)
    again = {}
    if near:
        nearest = [rate_of(one) for one in GRID if rate_of(one).label in list(found_whole["values"])[:near]]
        again = against(trained(config, nearest, more_seeds, trainings),
                        trained(config, [rate_of(chosen)], more_seeds, trainings))  # fmt: skip
    return {
        **found_whole,
        f"with {more_seeds} seeds": again,
        "updates of the sweep": found.cost.updates,
        "updates of the grid": updates,
        "share": found.cost.updates / updates,
        "share of a grid with one seed": found.cost.updates / (updates / seeds),
        "every trial of the sweep": [[line.label, line.step, line.value.value] for line in found.lines if line.value],
    }


def against(grid: dict[str, list[Outcome]], mine: dict[str, list[Outcome]]) -> dict[str, Any]:
    """The chosen rate beside the best of others on the same rows and seeds; values from the best to the worst."""
    runs = {label: [one.scored for one in outcomes] for label, outcomes in (grid | mine).items() if outcomes}
    weights = resampled(len(next(iter(runs.values()))[0].ids))
    values = {label: estimate(scored, METRIC, weights).value for label, scored in runs.items()}
    best = max((label for label in grid if label in values), key=lambda label: values[label])
    (chosen,) = mine
    return {
        "values": dict(sorted(values.items(), key=lambda one: -one[1])),
        "each seed": {label: [value_of(one, METRIC) for one in scored] for label, scored in runs.items()},
        "best of the grid": best,
        "chosen": chosen,
        "relative difference": values[chosen] / values[best] - 1,
        "difference": estimate(runs[chosen], METRIC, weights, runs[best]).to_json(),
    }


def data(folder: Path) -> dict[str, Any]:
    """What a curve through at most 4,000 rows expects of 27,000, against a training on them."""
    overrides = ["data.split.validation=300", "data.split.test=1500", *QUIET]
    config = load_recipe("sentiment-encoder", [*overrides, "train.learning_rate=5e-4", "train.num_epochs=3"])
    wanted = NeedWanted(config, (folder / "data-minilm").resolve(), SIZES, rows=(TRUTH,))
    found = data_need(wanted, told())
    runs = trained(config, [arm(config, TRUTH, wanted.least_updates)], 1, folder / "data-minilm")
    truth = float(np.mean([value_of(one.scored, METRIC) for one in runs[f"{TRUTH} rows"]]))
    assert found.curve is not None
    result: dict[str, Any] = {"values": found.values, "curve": found.curve.to_json(), "truth": truth,
                              "answers": [one.words for one in found.answers]}  # fmt: skip
    if found.curve.best is not None:
        expected = found.curve.at(TRUTH)
        result |= {"expected": expected.to_json(), "points off": 100 * (expected.value - truth),
                   "covered": expected.low <= truth <= expected.high}  # fmt: skip
    return result


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rate", "data"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=tuple(MODELS), default="minilm")
    parser.add_argument("--seeds", type=int, default=2, help="of the grid and of what is judged")
    parser.add_argument("--near", type=int, default=0, help="so many of the best rates of the grid get more seeds")
    parser.add_argument("--more-seeds", type=int, default=6)
    given = parser.parse_args()
    if given.what == "data":
        result = data(given.folder)
    else:
        result = rate(given.folder, given.model, given.seeds, given.near, given.more_seeds)
    print(json.dumps(result, indent=1, default=str))


if __name__ == "__main__":
    main()
