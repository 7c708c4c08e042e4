"""`burnish plan` through the entry point: table, YAML, JSON, measured importance, refusals."""

from __future__ import annotations

import json

import pytest
import yaml

from burnish.cli.main import call
from tests.support.recipes import recipe


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(folder)))
    return str(folder / "recipe.yaml")


def test_the_yaml_that_is_shown_is_a_recipe_section(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What stands below the comment gives, as the recipe's adapter, the parameters of the table."""
    assert call(["plan", path, "--budget", "5_440", "--methods", "lora"]) == 0
    shown = capsys.readouterr().out
    assert "rank 5" in shown and "5,440" in shown and "+0.00%" in shown
    assert yaml.safe_load(shown.partition("# into the recipe")[2]) == {"adapter": {"method": "lora", "rank": 5}}


def test_importance_is_measured_on_the_recipes_rows(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", path, "--budget", "5440", "--methods", "lora", "--by", "importance", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hit"] and found["total"] == 5440 and found["methods"][0]["wanted_share"] == 1.0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--budget", "100M"],
        ["--budget", "10"],
        ["--methods", "lroa"],
        ["--methods", "lora,lora"],
        ["--methods", "lora", "--shares", "60,40"],
        ["--methods", "lora", "--shares", "60", "--by", "importance"],
        ["--by", "magic"],
        ["--methods", "full"],
    ],
)
def test_what_cannot_be_planned_is_refused(path: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", path, *arguments]) == 2
    assert "fix:" in capsys.readouterr().err
