"""What `burnish plan` says of a whole recipe: fixes that keep the update, the finding of a run, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from burnish.cli.main import call
from burnish.core.config import build
from burnish.forecast.finding import Foresight, excess
from burnish.forecast.fixes import changed, fixes, together
from burnish.forecast.outlook import is_shape, of_shape
from burnish.forecast.sketch import Sketch, sketch_of
from burnish.forecast.timing import line_through
from burnish.forecast.trace import footprint_of
from burnish.forecast.work import work_of
from burnish.plan.memory import MIB, Overhead, memory_plan
from burnish.train.config import RunConfig
from tests.support.recipes import recipe

NONE = Overhead(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outlook")


@pytest.fixture(scope="module")
def sketch(folder: Path) -> Sketch:
    values = recipe(folder, batches={"micro_batch_tokens": 400})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return sketch_of(build(RunConfig, values))


def test_fixes_keep_the_rows_of_an_update_and_really_save(sketch: Sketch) -> None:
    """Just below what is needed, changes are found; each has the same rows per update and a traced peak that fits."""
    plan = memory_plan(footprint_of(sketch), NONE)
    limit = round(plan.peak * 0.95)
    found = fixes(sketch, plan, NONE, limit)
    assert 1 <= len(found) <= 3
    for fix in found:
        config = changed(sketch.config, fix.change.settings)
        assert config.train.batch_size == sketch.config.train.batch_size
        if not fix.change.data:
            rows = [sorted(sketch.with_config(config).updates().rows(step)) for step in range(2)]
            assert rows == [sorted(sketch.updates().rows(step)) for step in range(2)]
        assert fix.plan.fits(limit) and fix.saved == plan.peak - fix.plan.peak > 0


def test_of_two_changes_of_one_setting_the_later_holds(sketch: Sketch) -> None:
    """Selective and full checkpointing together are full checkpointing, at its price alone."""
    plan = memory_plan(footprint_of(sketch), NONE)
    from burnish.forecast.fixes import Change

    some = Change({"train": {"gradient_checkpointing": "selective"}}, 0.05, "some")
    whole = Change({"train": {"gradient_checkpointing": True}}, 0.5, "all")
    both = together([some, whole])
    assert both.words == "train.gradient_checkpointing=true" and both.slower == pytest.approx(0.5)
    assert plan.peak > 0


def test_a_run_that_does_not_fit_is_warned_of_and_refused_when_asked(
    sketch: Sketch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At nine tenths of what is needed a warning, or a stop where the recipe says so; at half of it always a stop."""
    monkeypatch.setattr("burnish.forecast.finding.fixes", lambda *given: [])
    plan = memory_plan(footprint_of(sketch), NONE)
    little = round(plan.peak * 0.9)
    warned = excess(sketch, plan, NONE, little)
    assert warned is not None and warned.severity == "warning" and warned.code == "plan.does-not-fit" and warned.fix
    strict = sketch.config.memory.model_copy(update={"on_excess": "stop"})
    asked = replace(sketch, config=sketch.config.model_copy(update={"memory": strict}))
    stopped = excess(asked, plan, NONE, little)
    far = excess(sketch, plan, NONE, plan.peak // 2)
    assert stopped is not None and far is not None and {stopped.severity, far.severity} == {"stop"}
    assert excess(sketch, plan, NONE, 2 * plan.peak) is None


def test_a_run_writes_its_plan(sketch: Sketch) -> None:
    """The peak with its phases, and no finding where there is plenty; what cannot be planned does not stop a run."""
    foresight = Foresight()
    assert foresight(sketch.config, sketch.prepared) == []
    assert foresight.plan["memory"]["peak_bytes"] > 100 * MIB
    broken = Foresight()
    assert broken(sketch.config.model_copy(update={"model": None}), sketch.prepared) == [] and "unknown" in broken.plan


def test_work_is_counted_by_hand(sketch: Sketch) -> None:
    """The updates' tokens are those of their rows, their pairs the squares of these: packs have no padding."""
    work, updates = work_of(sketch), sketch.updates()
    lengths = [int(updates.lengths[row]) for step in range(len(updates)) for row in updates.rows(step)]
    assert (work.tokens, work.pairs) == (sum(lengths), sum(n * n for n in lengths))


def test_a_line_is_found_and_points_alike_give_their_ratio() -> None:
    """Seconds 2 + 3 x give 2 and 3; four points at one place their mean ratio."""
    assert line_through([(x, 2 + 3 * x) for x in range(1, 9)]) == pytest.approx((2, 3))
    assert line_through([(2, 5), (2, 7), (2, 6), (2, 6)]) == pytest.approx((0, 3))


def test_the_command_shows_the_plan(sketch: Sketch, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Phases, verdict and cards in the terminal; the same as JSON; a budget is still divided."""
    path = str(folder / "recipe.yaml")
    assert call(["plan", path]) == 0
    shown = capsys.readouterr().out
    assert "forward and backward" in shown and "fits" in shown and "H100" in shown and "estimates" in shown
    assert call(["plan", path, "--card", "RTX 4090", "--engine", "zero3", "--processes", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["memory"]["engine"] == {"name": "zero3", "processes": 4, "offload": "none"}
    assert call(["plan", path, "--budget", "5440", "--methods", "lora"]) == 0
    assert "rank 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--card", "RTX 1"], ["--engine", "zero9"], ["--processes", "2"], ["--shape", "llama-9b"]]
)
def test_what_cannot_be_planned_is_refused(sketch: Sketch, folder: Path, arguments: list[str]) -> None:
    """One clear message, and the exit code of a refusal."""
    assert call(["plan", str(folder / "recipe.yaml"), *arguments]) == 2


def test_a_shape_alone_is_a_recipe() -> None:
    """A name that no file has; its overrides are those of a recipe."""
    assert is_shape("llama-70b") and not is_shape("llama-71b")
    config = of_shape("llama-70b", ["train.batch_size=4", "adapter.rank=8"])
    assert config.train.batch_size == 4 and config.adapters[0].rank == 8  # type: ignore[union-attr]
