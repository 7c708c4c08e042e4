"""A sweep: its stops, what it takes apart, its trials in stretches, and the whole of it on a tiny model."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from burnish.cli.main import call
from burnish.compare.halving import Stop, cost, stops, survivors
from burnish.compare.race import Stand, race, stop_at
from burnish.compare.space import Space, around, beyond, grid_points, read_numbers
from burnish.compare.sweep import PAGE, RANGE, RESULTS, WINNER, SweepWanted, sweep
from burnish.compare.variance import variance_shares
from burnish.core.errors import UserError
from burnish.train.run import start_run
from tests.support.recipes import LABELS, configured, recipe

RATES = (0.001, 0.01, 0.05, 0.1)


def wanted(folder: Path, **changes: Any) -> SweepWanted:
    sections = changes.pop("sections", {})
    config = configured(folder, evaluate={"choices": list(LABELS)}, train={"max_steps": 16}, **sections)
    return SweepWanted(config, folder / "out", **{"rates": RATES, "first": 0.25, **changes})


def test_the_stops_by_hand() -> None:
    """Nine trials, one finalist, one in three: two stops. With the first at 1/9 they are at 1/9 and 1/3, behind which 3
    and 1 go on: 9/9 + 3 * 2/9 + 1 * 2/3 = 7/3 trainings. Four with two finalists: one stop at 1/8, and
    4/8 + 2 * 7/8 = 2.25 trainings, two more with a second seed."""
    two = stops(9, 1, 3, 1 / 9)
    assert [round(stop.share, 12) for stop in two] == [round(1 / 9, 12), round(1 / 3, 12)]
    assert [stop.kept for stop in two] == [3, 1]
    assert cost(9, 1, 3, 1 / 9) == pytest.approx(7 / 3)
    assert stops(4, 2, 3, 0.125) == [Stop(0.125, 2)] and cost(4, 2, 3, 0.125) == 2.25
    assert cost(4, 2, 3, 0.125, seeds=2) == 4.25
    assert stops(2, 2, 3, 0.125) == [] and cost(2, 2, 3, 0.125) == 2


def test_who_survives() -> None:
    values = {"a": 0.5, "b": 0.7, "c": 0.7, "d": 0.1}
    assert survivors(values, 2, higher=True) == ["b", "c"] and survivors(values, 2, higher=False) == ["d", "a"]
    diverged = {"x": math.nan, "y": 2.0, "z": 1.0}
    assert survivors(diverged, 3, higher=False) == ["z", "y", "x"] and survivors(diverged, 1, higher=True) == ["y"]


def test_the_variance_by_hand() -> None:
    """y = 0, 2 at rate 1 and 4, 10 at rate 2 (batch 8, 16). Mean 4, deviations -4, -2, 0, 6: variance 56/4 = 14.
    Rates: means 1 and 7, so 3^2 = 9; batches: means 2 and 6, so 2^2 = 4; together 14 - 13 = 1."""
    values = {(1.0, 8.0): 0.0, (1.0, 16.0): 2.0, (2.0, 8.0): 4.0, (2.0, 16.0): 10.0}
    assert variance_shares(values, ["rate", "batch"]) == pytest.approx(
        {"rate": 9 / 14, "batch": 4 / 14, "together": 1 / 14}
    )
    assert variance_shares(dict.fromkeys(values, 3.0), ["rate", "batch"]) == {}
    assert variance_shares({(1.0,): 1.0, (2.0,): 2.0}, ["rate"]) == {"rate": pytest.approx(1.0)}


def test_the_variance_equals_that_of_a_linear_model() -> None:
    """For three settings the shares are the sums of squares of a two-way-free linear model, by least squares."""
    draw = np.random.default_rng(0)
    levels = [(1.0, 2.0, 3.0), (8.0, 16.0), (1.0, 2.0, 4.0, 8.0)]
    grid = list(itertools.product(*levels))
    y = draw.normal(size=len(grid)) + [a + 0.1 * b for a, b, _ in grid]
    found = variance_shares(dict(zip(grid, y, strict=True)), ["a", "b", "c"])
    for j, name in enumerate("abc"):
        columns = np.array([[one[j] == level for level in levels[j]] for one in grid], dtype=float)
        fitted = columns @ np.linalg.lstsq(columns, y - y.mean(), rcond=None)[0]
        assert found[name] == pytest.approx((fitted**2).sum() / ((y - y.mean()) ** 2).sum())
    assert sum(found.values()) == pytest.approx(1)


def test_a_hole_leaves_its_level_out() -> None:
    """A rate of which one trial failed is left out whole; the shares are those of the other two rates."""
    values = {(r, b): r * 10 + b for r in (1.0, 2.0, 3.0) for b in (8.0, 16.0)}
    full = variance_shares({k: v for k, v in values.items() if k[0] < 3}, ["rate", "batch"])
    values[3.0, 16.0] = math.nan
    assert variance_shares(values, ["rate", "batch"]) == full


def test_the_space(tmp_path: Path) -> None:
    """Rates above 3.2e-4 with a factor of two; beyond an end the next one; ten doublings make eleven grid points."""
    assert around(3.2e-4) == (6.4e-4, 1.3e-3, 2.6e-3)
    assert beyond((1e-4, 2e-4), 2e-4) == 4e-4 and beyond((1e-4, 2e-4), 1e-4) == 5e-5
    assert beyond((1e-4, 2e-4, 4e-4), 2e-4) is None
    assert grid_points(1.0, 1024.0) == 11
    space = Space((1e-4, 2e-4), (8, 16), (1, 2, 4))
    assert len(space.candidates()) == 12 and space.others == 6
    assert space.candidates()[0].variant.label == "rate 0.0001, batch 8, epochs 1"
    assert read_numbers("3e-4, 1e-4", "--rates") == (1e-4, 3e-4) and read_numbers(None, "--rates") == ()


@pytest.mark.parametrize(("text", "whole"), [("1e-4,x", False), ("0", False), ("8,8", True), ("8.5", True), ("", True)])
def test_what_is_no_list_of_numbers(text: str, whole: bool) -> None:
    with pytest.raises(UserError, match=r"is no|twice|no value"):
        read_numbers(text, "--batch-sizes", whole=whole)


def silent(event: Any) -> None:
    """A callback that asks for nothing."""


def test_a_trial_in_stretches_ends_like_one_that_never_paused(tmp_path: Path) -> None:
    """Paused after a quarter and a half, then continued: the same updates, losses and last validation rows as a run of
    `burnish run` and as a trial without a pause."""
    config = configured(tmp_path, evaluate={"choices": list(LABELS)}, train={"max_steps": 8})
    named = [config.model_copy(update={"name": name}) for name in ("parts", "whole", "run")]
    for until in (0.25, 0.5, 1.0):
        part = race(named[0], until, fresh=until == 0.25, heard=silent)
        assert part is not None and part.step == 8 * until and part.ended == (until == 1.0)
    whole = race(named[1], 1.0, fresh=True, heard=silent)
    start_run(named[2])
    logs = [read(tmp_path / "runs" / name) for name in ("parts", "whole", "run")]
    assert logs[0]["train"] == logs[1]["train"] == logs[2]["train"] and len(logs[0]["train"]) == 8
    assert logs[0]["validation"][8] == logs[1]["validation"][8] == logs[2]["validation"][8]
    assert set(logs[0]["validation"]) == {2, 3, 4, 6, 8} and set(logs[1]["validation"]) == {3, 6, 8}
    assert whole is not None and len(whole.scored.ids) == 12 and whole.scored.classes == 3
    assert Stand.read(json.loads(json.dumps(whole.to_json()))).scored.losses.tolist() == whole.scored.losses.tolist()
    assert not (tmp_path / "runs/parts/predictions.jsonl").exists()  # no test row was scored
    assert not (tmp_path / "runs/parts/checkpoints").exists()


def test_where_trials_are_compared_first() -> None:
    """An eighth of 250 updates is 32, 500 rows in updates of 8 are 63; of 60 updates half at most; a share that is more
    than half is taken."""
    assert [stop_at(250, 8, 0.125, least) for least in (0, 500)] == [32, 63]
    assert stop_at(60, 8, 0.125, 500) == 30 and stop_at(60, 8, 0.75, 500) == 45 and stop_at(60, 8, 1.0, 500) == 60
    assert stop_at(1, 8, 0.125, 500) == 1


def test_a_short_training_is_compared_at_half(tmp_path: Path) -> None:
    """500 rows are more than 16 updates of 8 have: they pause behind the eighth one."""
    config = configured(tmp_path, evaluate={"choices": list(LABELS)}, train={"max_steps": 16})
    stand = race(config, 0.125, fresh=True, heard=silent, least_rows=500)
    assert stand is not None and (stand.step, stand.total, stand.ended) == (8, 16, False)


def read(folder: Path) -> dict[str, dict[int, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {kind: {r["step"]: r["loss"] for r in rows if r["kind"] == kind} for kind in ("train", "validation")}


def test_losers_are_stopped_and_nothing_is_trained_twice(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """Four rates to a quarter of 16 updates, the two with the lowest loss to their end: 4 * 4 + 2 * 12 = 40 of 64."""
    found = sweep(wanted(tmp_path))
    assert [mode for mode, _ in calls] == ["stretch"] * 6
    stands = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "out/runs").glob("*/stand-0.25*")}
    losses = {name: np.dot(stand["scored"]["losses"], stand["scored"]["counts"]) for name, stand in stands.items()}
    assert {name for _, name in calls[4:]} == set(sorted(losses, key=lambda name: losses[name])[:2])
    assert found.cost.updates == 40 and found.cost.rows == 320 and found.cost.share == 40 / 64
    assert sorted(line.step for line in found.lines) == [4, 4, 16, 16]
    best = found.best
    assert best is not None and best.ended and best.value is not None
    assert all(line.against is not None for line in found.lines[1:]) and found.importance == {
        "rate": pytest.approx(1.0)
    }
    assert found.overrides == (f"train.learning_rate={best.settings['train.learning_rate']:g}",)
    assert [max(step for step, _ in line.curve) for line in found.lines] == [line.step for line in found.lines]

    written = json.loads((tmp_path / "out" / RESULTS).read_text())
    assert written["winner"]["label"] == best.label and written["split"] == "validation"
    assert (tmp_path / "out" / WINNER).read_text().split() == list(found.overrides)
    page = (tmp_path / "out" / PAGE).read_text()
    assert (
        "<svg" in page and f"Take {best.label}" in page and "stopped early" in page and "62% of the full grid" in page
    )

    calls.clear()
    again = sweep(wanted(tmp_path))
    assert calls == [] and again.to_json() == found.to_json()
    three = sweep(wanted(tmp_path, finalists=3, seeds=2))  # one more is continued, and each gets a second seed
    assert [name.rpartition("-")[2] for _, name in calls] == ["seed0", "seed1", "seed1", "seed1"]
    assert three.best is not None and three.best.value is not None and len(three.best.value.seeds) == 2


def test_another_first_stop_is_another_race(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """An eighth of 16 updates is 2; without the option it is 8, half of them. What paused elsewhere is not compared."""
    for first, stop in ((0.125, 2), (None, 8), (0.125, 2)):
        calls.clear()
        found = sweep(wanted(tmp_path, rates=(0.01, 0.05), finalists=1, first=first))
        assert len(calls) == 3 and sorted(line.step for line in found.lines) == [stop, 16]


def test_a_sweep_that_was_interrupted_goes_on(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """Ctrl-C in the third stretch: the first two are kept, and the end is that of an undisturbed sweep."""
    undisturbed = sweep(wanted(tmp_path / "other")).to_json()
    calls.clear()

    class Stops:
        begun = 0

        def __call__(self, number: int, total: int, trial: Any) -> None:
            self.begun += 1
            if self.begun == 3:
                raise KeyboardInterrupt

    from burnish.compare.run import Listener

    with pytest.raises(KeyboardInterrupt):
        sweep(wanted(tmp_path), Listener(begins=Stops()))
    assert len(calls) == 2
    ended = sweep(wanted(tmp_path)).to_json()
    assert len(calls) == 6
    for one, other in ((ended, undisturbed), (undisturbed, ended)):
        assert [t["value"] for t in one["trials"]] == [t["value"] for t in other["trials"]]


def test_rates_from_a_range_test(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """Without rates a range test of 20 updates (a quarter of 16 is too few) comes first, once, and is part of the cost;
    the rates go on outwards at most four times while the best one is at an end."""
    found = sweep(wanted(tmp_path, rates=()))
    assert calls[0] == ("range", "run") and [mode for mode, _ in calls].count("range") == 1
    tested = json.loads((tmp_path / "out" / RANGE).read_text())["test"]
    assert 8 <= len(tested["rates"]) <= 20 == found.cost.range_updates + 20 - len(tested["rates"])
    centre = tested["suggestion"]["rate"] or tested["recipe_rate"]
    rates = {line.settings["train.learning_rate"] for line in found.lines}
    assert set(around(centre)) <= rates and 3 <= len(rates) <= 7
    assert found.cost.updates == found.cost.range_updates + sum(line.step for line in found.lines)
    assert "the range of the test" in found.cost.grid
    calls.clear()
    sweep(wanted(tmp_path, rates=()))
    assert calls == []


def test_several_settings(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """Two rates, two batch sizes, two lengths: eight trials, shares that add up to one, and words about them."""
    config = configured(
        tmp_path, evaluate={"choices": list(LABELS)}, train={"max_steps": None, "num_epochs": 1, "learning_rate": 0.01}
    )
    space = SweepWanted(config, tmp_path / "out", (0.001, 0.05), (4, 8), (1, 2), finalists=1, first=0.25)
    found = sweep(space)
    assert len(found.lines) == 8 and sum(line.ended for line in found.lines) == 1
    assert set(found.importance) == {"rate", "batch", "epochs", "together"}
    assert sum(found.importance.values()) == pytest.approx(1)
    assert found.cost.rows < found.cost.grid_rows == found.cost.candidates_rows
    # 36 rows, whole: 9 and 18 updates of 4, 5 and 10 of 8, each with two rates
    assert found.cost.grid_updates == 2 * (9 + 18 + 5 + 10)
    assert "explains" in (tmp_path / "out" / PAGE).read_text()


def test_a_trial_that_fails_loses(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """A rate of 1e30 ends in numbers that are not finite; it is said, and the others go on."""
    found = sweep(wanted(tmp_path, rates=(0.01, 0.05, 1e30)))
    failed = [line for line in found.lines if line.why_not]
    assert [line.settings["train.learning_rate"] for line in failed] == [1e30]
    assert found.best is not None and found.best.ended and "Failed" in (tmp_path / "out" / PAGE).read_text()


def test_early_stopping_ends_a_trial(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """A trial that gives up before a stop has come to its end: it is not trained again, and counts as it is."""
    sections = {"early_stopping": {"patience": 1, "metric": "macro_f1", "min_improvement": 1.0}}
    found = sweep(wanted(tmp_path, rates=(0.001, 0.01), finalists=1, first=0.75, sections=sections))
    assert [name for _, name in calls] == ["rate-0.001-seed0", "rate-0.01-seed0"]  # 12 updates wanted, over after 6
    assert [line.step for line in found.lines] == [6, 6] and found.lines[0].ended


def test_a_metric_that_no_row_has_is_the_loss(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """Without choices there are no classes: less loss is better, in what goes on and in what is shown."""
    config = configured(tmp_path, train={"max_steps": 8})
    found = sweep(SweepWanted(config, tmp_path / "out", (1e-5, 0.05), finalists=1, first=0.5))
    assert found.metric == "loss" and found.best is not None
    assert found.best.settings["train.learning_rate"] == 0.05 and found.best.ended


@pytest.mark.parametrize(
    ("sections", "options", "said"),
    [
        ({"train": {"max_steps": 4}}, ["--epochs", "1,2"], "train.max_steps"),
        ({"train": {"max_steps": 4}}, ["--batch-sizes", "4,8"], "train.max_steps"),
        ({"train": {"max_steps": None}, "stages": [{"train": "all", "max_steps": 2}]}, [], "stages"),
        ({}, ["--rates", "1e-4,fast"], "is no number"),
        ({}, ["--finalists", "0"], "--finalists"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sections: Mapping[str, Any], options: list[str], said: str
) -> None:
    """One message, exit code 2, no traceback."""
    values = recipe(tmp_path, **sections)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert call(["sweep", str(tmp_path / "recipe.yaml"), *options, "--output", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told


def test_through_the_command_line(
    tmp_path: Path, calls: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(tmp_path, evaluate={"choices": list(LABELS)})))
    command = ["sweep", str(tmp_path / "recipe.yaml"), "--rates", "0.001,0.05", "--finalists", "1", "--first", "0.5"]
    command += ["--output", str(tmp_path / "out")]
    assert call(command) == 0
    told = capsys.readouterr()
    assert "Take rate" in told.out and "train it    burnish run" in told.out and "stopped early" in told.out
    assert "3 of 6 updates" in told.err
    assert call([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["winner"]["overrides"]
