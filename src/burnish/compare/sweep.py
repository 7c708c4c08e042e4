"""A sweep: learning rates, batch sizes and epochs, raced on the validation rows; the losers are stopped early."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from burnish.compare.halving import stops, survivors
from burnish.compare.keys import key_of
from burnish.compare.process import call
from burnish.compare.racing import Racer
from burnish.compare.run import Listener, deciding, refuse_all_refused
from burnish.compare.space import Candidate, Space, around, beyond, refuse_unsuited
from burnish.compare.standings import Sweep, standings, value_of
from burnish.compare.sweep_page import write_sweep_page
from burnish.compare.trials import Prepared, Wanted, prepare, reason
from burnish.core.errors import UserError
from burnish.core.files import write_atomic, write_json
from burnish.train.config import RunConfig

RESULTS, PAGE, WINNER, RANGE = "sweep.json", "sweep.html", "winner.txt", "range.json"
UPDATES = 80
"""Updates of a range test, at most."""
MOST = 0.25
"""Its share of a training, at most: where trainings are short, the test is shorter."""
EXTENSIONS = 4
"""How often the rates are continued outwards, where the best one is at their end."""
FIRST, LEAST_ROWS = 0.125, 500
"""Where trials are compared first. After 250 tweets SmolLM2 knew what answers look like, and no rate stood out."""
AT_STOPS = "loss"
"""What decides before the end: a sum over rows, far less noisy than a count of right answers after few updates."""


@dataclass(frozen=True)
class SweepWanted:
    """What is to be tried.

    Attributes:
        config: The recipe.
        output: Folder of the sweep.
        rates: Learning rates; empty takes some around the suggestion of a range test.
        batch_sizes: Rows of an update; empty leaves the recipe's.
        epochs: Passes; empty leaves the recipe's.
        finalists: Trials that come to their end.
        seeds: Runs of each finalist.
        eta: One trial in so many goes on behind a stop.
        first: Share of a training at the first stop; an eighth if None, and at least ``LEAST_ROWS`` rows.
    """

    config: RunConfig
    output: Path
    rates: tuple[float, ...] = ()
    batch_sizes: tuple[float, ...] = ()
    epochs: tuple[float, ...] = ()
    finalists: int = 2
    seeds: int = 1
    eta: float = 3.0
    first: float | None = None


def sweep(wanted: SweepWanted, listener: Listener | None = None) -> Sweep:
    """Run a sweep, or what is left of it; its files are written after every stretch.

    Every trial follows the schedule of its whole training and pauses at the stops; those that go on continue where they
    were. Only validation rows decide: their loss at the stops, the recipe's metric at the end.

    Raises:
        UserError: The recipe does not suit a sweep, or no trial can be run.
    """
    refuse_unsuited(wanted.config, {"--batch-sizes": wanted.batch_sizes, "--epochs": wanted.epochs})
    listener = listener or Listener()
    tested = {} if wanted.rates else _range_test(wanted, listener)
    rates = wanted.rates or around(tested["suggestion"]["rate"] or tested["recipe_rate"])
    return _Course(wanted, Space(rates, wanted.batch_sizes, wanted.epochs), tested, listener).run()


@dataclass
class _Course:
    """The course of a sweep."""

    wanted: SweepWanted
    space: Space
    tested: dict[str, Any]
    listener: Listener
    prepared: dict[str, Prepared] = field(default_factory=dict)
    candidates: dict[str, Candidate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.racer = Racer(self.listener, least_rows=0 if self.wanted.first else LEAST_ROWS)
        self.metric = deciding(self.wanted.config)

    def run(self) -> Sweep:
        """Everything, in order."""
        self._enter(self.space)
        refuse_all_refused(list(self.prepared.values()), "RECIPE")
        wanted = self.wanted
        alive = [label for label, one in self.prepared.items() if one.trials]
        planned = stops(len(alive), wanted.finalists, wanted.eta, wanted.first or FIRST)
        self.racer.total = len(alive) + sum(stop.kept for stop in planned) + wanted.finalists * (wanted.seeds - 1)
        for number, stop in enumerate(planned):
            self._advance(alive, stop.share)
            if number == 0 and not wanted.rates:
                alive += self._extended(stop.share)
            alive = survivors(self._losses(alive), stop.kept, higher=False)
        for seed in range(wanted.seeds):
            self._advance(alive, 1.0, seed)
        if not self._losses(alive):
            first = next(iter(self.racer.failures.items()))
            raise UserError(f"no trial came to its end; `{first[0]}`: {first[1]}", where=str(wanted.output))
        return self._note()

    def _enter(self, space: Space) -> list[str]:
        """Prepare the candidates that are not known yet."""
        self.space = space
        new = {one.variant.label: one for one in space.candidates() if one.variant.label not in self.candidates}
        wanted = self.wanted
        jobs = Wanted(wanted.config, [c.variant for c in new.values()], wanted.seeds, wanted.output, timed=False)
        for one in prepare(jobs):
            self.prepared[one.variant.label] = one
            if one.refused:
                self.racer.failures[one.variant.label] = one.refused
        self.candidates |= new
        return list(new)

    def _extended(self, share: float) -> list[str]:
        """Rates beyond an end of those that were tried, as long as the best one is there."""
        added: list[str] = []
        for _ in range(EXTENSIONS):
            losses = self._losses(list(self.candidates))
            if not losses:
                break
            best = survivors(losses, 1, higher=False)[0]
            further = beyond(self.space.rates, self.candidates[best].levels[0])
            if further is None:
                break
            new = self._enter(replace(self.space, rates=tuple(sorted([*self.space.rates, further]))))
            self.racer.total += len(new)
            self._advance([label for label in new if self.prepared[label].trials], share)
            added += new
        return added

    def _advance(self, labels: Sequence[str], share: float, seed: int = 0) -> None:
        for label in labels:
            if label not in self.racer.failures:
                self.racer.advance(self.prepared[label].trials[seed], share)
                self._note()

    def _losses(self, labels: Sequence[str]) -> dict[str, float]:
        """Where trials stand now; those that failed are out."""
        stands = {label: self.racer.last(label) for label in labels if label not in self.racer.failures}
        return {label: value_of(stand.scored, AT_STOPS) for label, stand in stands.items() if stand}

    def _note(self) -> Sweep:
        found = standings(
            self.candidates,
            self.prepared,
            self.racer,
            self.space,
            metric=self.metric,
            tested=self.tested,
            about=_about(self.wanted),
        )
        write(found, self.wanted.output)
        return found


def write(found: Sweep, output: Path) -> None:
    """Numbers, page, and the settings of the best trial as the command line takes them."""
    write_json(output / RESULTS, found.to_json())
    write_atomic(output / WINNER, "".join(f"{one}\n" for one in found.overrides))
    write_sweep_page(found, output / PAGE)


def _about(wanted: SweepWanted) -> dict[str, Any]:
    config = wanted.config
    return {
        "recipe": config.name,
        "model": config.model.path,
        "finalists": wanted.finalists,
        "seeds": wanted.seeds,
        "keep_one_in": wanted.eta,
        "first": wanted.first or FIRST,
        "batch_size": config.train.batch_size,
    }


def _range_test(wanted: SweepWanted, listener: Listener) -> dict[str, Any]:
    """The range test of the recipe, from its file if it was made before."""
    path = wanted.output / RANGE
    recipe = {**wanted.config.model_dump(mode="json", exclude_unset=True), "output": None}
    key = key_of(wanted.config)
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if known.get("key") == key:
        return dict(known["test"])
    listener.moves({"stage": "range test of the learning rate"})
    whole = recipe | {"output": str(wanted.output)}
    told = call("range", whole, listener.moves, updates=UPDATES, share=MOST)
    if "range" not in told:
        failed = told.get("failed", {"what": "the range test gave no result", "fix": ""})
        fix = "name rates yourself, such as `--rates 1e-4,3e-4,1e-3`"
        raise UserError(reason(failed["what"], failed["fix"]), where="range test", fix=fix)
    write_json(path, {"key": key, "test": told["range"]})
    return dict(told["range"])
