"""Weighing task against retention: the arms, their runs with a stand-in for what is retained, and the words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from burnish.cli.main import call
from burnish.compare import tradeoff
from burnish.compare.arms import PLAIN, read_arms
from burnish.compare.statistics import Estimate
from burnish.compare.tradeoff import PAGE, RESULTS, kept_over, weigh
from burnish.compare.trials import Wanted
from burnish.core.errors import UserError
from tests.support.recipes import LABELS, configured, recipe

KEPT = {"plain": 0.93, "replay": 0.996}


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the arms retain is read from a table."""

    def retained(path: Path) -> Estimate:
        value = KEPT[path.name.split("-")[0]]
        return Estimate(value, value - 0.002, value + 0.002, (value,))

    monkeypatch.setattr(tradeoff, "read_retained", retained)


def test_two_arms_of_a_tiny_model(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """Plain and replay are run, a refused arm says why, the front has what belongs on it, and the second call runs only
    what was refused before: nothing."""
    config = configured(tmp_path, evaluate={"choices": list(LABELS)})
    given = ["replay: data.replay.ratio=0.3", "odd: adapter.rnk=3"]
    wanted = Wanted(config, read_arms(given, config, defaults=False), 1, tmp_path / "out", timed=False)
    found = weigh(wanted, 0.01)
    assert calls == [("score", "plain-seed0"), ("score", "replay-seed0")]
    assert [option.label for option in found.options] == ["plain", "replay"]
    assert found.metric == "macro_f1" and found.rows == 12 and "rnk" in found.failed["odd"]
    assert found.places["replay"].on_front
    assert found.advice is not None and (found.advice.label, found.advice.sure) == ("replay", True)
    assert any("wins back 94% of what that loses" in said for said in found.advice.words)  # (0.996 - 0.93) / 0.07

    written = json.loads((tmp_path / "out" / RESULTS).read_text())
    assert written["arms"][1]["overrides"] == ["data.replay.ratio=0.3"] and written["tolerance"] == 0.01
    assert written["arms"][1]["retention"]["value"] == 0.996
    page = (tmp_path / "out" / PAGE).read_text()
    assert "<svg" in page and "lose at most 1 %" in page and "odd" in page and "prefers-color-scheme: dark" in page

    calls.clear()
    again = weigh(wanted, 0.08)
    assert calls == [] and again.advice is not None
    assert again.advice.label == ("plain" if found.places["plain"].on_front else "replay")


def test_an_arm_is_refused_for_all_of_its_seeds(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    config = configured(tmp_path)
    with pytest.raises(UserError, match="no variant can be run"):
        weigh(Wanted(config, read_arms(["plain: adapter.rnk=1"], config, defaults=False), 2, tmp_path / "out"), 0.01)
    assert calls == []


def test_the_default_arms_fit_the_job(tmp_path: Path) -> None:
    """A job that writes replays; one with a head cannot, and is held by other means. The gentle rate is a quarter."""
    writing = read_arms((), configured(tmp_path))
    assert [arm.label for arm in writing] == [PLAIN, "replay 20%", "distill", "l2_sp", "gentle", "gentle and replay"]
    assert writing[4].overrides == ("train.learning_rate=0.0025",)
    pairs = read_arms((), configured(tmp_path, model="t5"))
    assert "data.replay.source=self" in pairs[1].overrides
    head = configured(tmp_path, model="bert", task="classification", adapter={"method": "full"})
    assert not any("replay" in " ".join(arm.overrides) for arm in read_arms((), head))
    changed = read_arms(["gentle: train.learning_rate=1e-5", "own: a.b=[x: 1, y: 2] c.d=3"], configured(tmp_path))
    assert changed[4].overrides == ("train.learning_rate=1e-5",) and len(changed) == 7
    assert changed[-1].overrides == ("a.b=[x: 1, y: 2]", "c.d=3")


@pytest.mark.parametrize("text", ["no colon", ": a=1", "name: ratio", ""])
def test_what_is_no_arm(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="is no"):
        read_arms([text], configured(tmp_path))


def test_arms_have_names_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="named twice"):
        read_arms(["a: seed=1", "A: seed=2"], configured(tmp_path))


def test_a_retention_over_seeds_by_hand() -> None:
    """0.96 and 0.98, each 0.0196 wide on both sides: v over texts = 0.01^2, over seeds 0.0002 / 2 = 0.01^2; together
    2e-4, and f = (2e-4)^2 / (1e-8 / 99 + 1e-8 / 1) = 3.9604; t(0.975, 3.9604) = 2.789, so 0.97 +- 0.03945."""
    found = kept_over([Estimate(v, v - 0.019599640, v + 0.019599640, (v,)) for v in (0.96, 0.98)])
    assert found is not None and found.value == pytest.approx(0.97)
    assert found.high - found.value == pytest.approx(0.03945, rel=2e-3)
    assert kept_over([found, None]) is None and kept_over([]) is None


def test_through_the_command_line(
    tmp_path: Path, calls: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(tmp_path, evaluate={"choices": list(LABELS)})))
    command = ["tradeoff", str(tmp_path / "recipe.yaml"), "--only", "--arm", "replay: data.replay.ratio=0.3"]
    command += ["--output", str(tmp_path / "out"), "--tolerance", "1%", "--interpolate"]
    assert call(command) == 0
    told = capsys.readouterr().out
    assert "take `replay`" in told and "data.replay.ratio=0.3" in told and "tradeoff.html" in told
    assert "interpolated" in told and (tmp_path / "out/runs/plain-seed0/interpolation.html").is_file()
    assert call([*command[:-1], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["advice"]["label"] == "replay"
