"""The search over architectures: its space, pruning through the loop, a shared store, and the command."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from burnish.api import load_recipe
from burnish.cli.main import call
from burnish.compare.architectures import EVERYWHERE, Space, space_of
from burnish.compare.race import race
from burnish.compare.search import Fixed, SearchWanted, metric_of, open_study
from burnish.compare.study import Pruning, importances, open_storage
from burnish.core.errors import UserError
from burnish.core.events import Evaluated, Started, Stepped, Stop
from tests.support.recipes import LABELS, configured, recipe
from tests.support.tiny import tiny

optuna = pytest.importorskip("optuna")


def test_the_space_is_what_the_model_can_take() -> None:
    """A width of 32: ranks up to 32, and a bottleneck of 4 at a reduction of 8. GPT-2 has no query of its own."""
    llama = space_of(tiny("llama"))
    assert llama == Space(
        ("lora", "bottleneck", "hybrid"),
        ("query and value", "attention", "feed-forward", EVERYWHERE),
        (2, 4, 8, 16, 32),
        (2, 4, 8),
    )
    assert space_of(tiny("gpt2"), "lora").places == ("attention", "feed-forward", EVERYWHERE)
    with pytest.raises(UserError, match="`lroa` cannot be searched"):
        space_of(tiny("llama"), "lroa")
    with pytest.raises(UserError, match="twice"):
        space_of(tiny("llama"), "lora,lora")


def test_a_choice_becomes_a_recipe() -> None:
    """A quarter of LoRA's own rate of 2e-4, at the queries and values; a hybrid has the lower rate of its two."""
    values = {"method": "lora", "lora.rank": 4, "lora.targets": "query and value", "rate": 0.25}
    made = space_of(tiny("llama")).variant(Fixed(values), "trial-1")
    assert made.methods == (("lora", {"rank": 4, "targets": ["attention.query", "attention.value"]}),)
    assert made.learning_rate == 5e-5


class Told:
    """Stands in for a trial: prunes from its second report on."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, int]] = []

    def report(self, value: float, step: int) -> None:
        self.reports.append((value, step))

    def should_prune(self) -> bool:
        return len(self.reports) > 1


def test_the_end_of_a_trial_is_never_pruned() -> None:
    """Evaluations at 10, 20 and 40 of 40 updates are reported at 25, 50 and 100 per cent; the second is pruned, and
    the loop hears of it at its next update."""
    trial = Told()
    pruning = Pruning(trial, "loss")
    pruning(Started(0, 40, 1.0))
    for step in (10, 20):
        assert pruning(Stepped(step, 0.1, {})) is None
        assert pruning(Evaluated(step, 0.1, {"loss": 1.0 / step}, True)) is None
    assert pruning(Stepped(21, 0.1, {})) == Stop("pruned") and pruning.pruned
    assert trial.reports == [(0.1, 25), (0.05, 50)]
    ended = Pruning(Told(), "loss")
    ended(Started(0, 10, 1.0))
    ended(Evaluated(5, 0.1, {"loss": 1.0}, True))
    ended(Evaluated(10, 0.1, {"loss": 1.0}, True))
    assert not ended.pruned


def test_the_loop_ends_where_a_trial_is_pruned(tmp_path: Path) -> None:
    """Evaluated every second of 10 updates and pruned at the second time, behind update 4: update 5 is the last."""
    config = configured(tmp_path, train={"max_steps": 10}, evaluate={"every_steps": 2})
    pruning = Pruning(Told(), "loss")
    stand = race(config, 1.0, fresh=True, heard=pruning)
    assert stand is not None and pruning.pruned and (stand.step, stand.total) == (5, 10)


def test_what_decides_is_something_that_the_task_has(tmp_path: Path) -> None:
    """Macro-F1 for classes, the loss for texts and for numbers."""
    assert metric_of(configured(tmp_path, evaluate={"choices": list(LABELS)})) == "macro_f1"
    assert metric_of(configured(tmp_path)) == "loss"
    assert metric_of(configured(tmp_path, task="classification", evaluate={"samples": 0})) == "macro_f1"
    assert metric_of(configured(tmp_path, task="regression", evaluate={"samples": 0})) == "loss"


def test_processes_share_a_store_and_another_recipe_is_refused(tmp_path: Path) -> None:
    """What one adds the other sees, in a database and in a journal; the key is the recipe, wherever its files are."""
    config, space = configured(tmp_path), space_of(tiny("llama"))
    for url in (f"sqlite:///{tmp_path / 'a.db'}", f"journal:///{tmp_path / 'logs' / 'a.log'}"):
        one, other = (open_study(SearchWanted(config, space, tmp_path, 5, url, "s")) for _ in range(2))
        one.add_trial(optuna.trial.create_trial(value=1.0, params={}, distributions={}))
        assert [trial.value for trial in other.trials] == [1.0]
        with pytest.raises(UserError, match="of another recipe"):
            open_study(SearchWanted(configured(tmp_path, seed=3), space, tmp_path, 5, url, "s"))
    elsewhere = configured(tmp_path).model_copy(update={"output": "/elsewhere"})
    first, second = (SearchWanted(c, space, tmp_path, 5, "", "s").key for c in (config, elsewhere))
    assert first == second


def test_what_decides_a_synthetic_study_is_found_important() -> None:
    """The value is 10 a of LoRA's trials, and b hardly counts; the method, all alike, has no share."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(40):
        trial = study.ask()
        trial.suggest_categorical("method", ["lora"])
        a, b = trial.suggest_float("a", 0, 1), trial.suggest_float("b", 0, 1)
        study.tell(trial, 10 * a + 0.1 * b)
    shares = importances(study)["all"]
    assert set(shares) == {"a", "b"} and shares["a"] > 0.9
    assert importances(optuna.create_study()) == {}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    values = recipe(tmp_path, evaluate={"choices": list(LABELS), "every_steps": 2}, train={"max_steps": 6})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"


def test_the_search_is_continued_and_its_best_is_a_recipe(
    path: Path, calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Three trials, then two more: five are in the study, none was made twice, and no test row was scored."""
    command = ["search", str(path), "--output", str(path.parent / "out"), "--methods", "lora", "--seed", "0", "--json"]
    assert call([*command, "--trials", "3"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert len(first["trials"]) == 3 and [mode for mode, _ in calls] == ["searched"] * 3
    assert call([*command, "--trials", "5", "--seed", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(calls) == 5 and [one["number"] for one in told["trials"] if one["state"] == "complete"]
    assert {tuple(one["settings"].items()) for one in first["trials"]} <= {
        tuple(one["settings"].items()) for one in told["trials"]
    }
    assert not list((path.parent / "out").rglob("predictions.jsonl"))
    best = max((one for one in told["trials"] if one["state"] == "complete"), key=lambda one: one["value"])
    assert told["best"]["number"] == best["number"]
    config = load_recipe(path, [f"@{path.parent / 'out/best.yaml'}"])
    assert config.adapters[0].rank == best["settings"]["lora.rank"]  # type: ignore[attr-defined]
    assert config.train.learning_rate == pytest.approx(2e-4 * best["settings"]["rate"], rel=0.01)
    assert call([*command[:-1], "--trials", "5"]) == 0
    assert "best: trial" in capsys.readouterr().out and len(calls) == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pruner", "medien"], "no pruner `medien`"),
        (["--store", "search.db"], "it is no URL"),
        (["--methods", "loraa"], "cannot be searched"),
        (["stages=[{name: one, train: all, num_epochs: 1}]", "train.max_steps=null"], "has stages"),
    ],
)
def test_bad_input_is_one_message(
    path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["search", str(path), "--output", str(path.parent / "out"), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_without_the_extra_the_message_says_how_to_install_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return plain(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    assert call(["search", str(path)]) == 2
    assert "pip install 'burnish[search]'" in capsys.readouterr().err
    with pytest.raises(UserError, match="not installed"):
        open_storage("sqlite:///x.db")
