"""Strict configuration: what is refused, and how overrides are applied."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError

from burnish.core.config import Config, apply_overrides, build, read_yaml
from burnish.core.errors import UserError


class Inner(Config):
    """An inner section."""

    rank: int = Field(8, ge=1)
    """Width of the update. A second sentence."""
    kind: Literal["cosine", "linear"] = "cosine"
    """Shape of the schedule."""


class Outer(Config):
    """A recipe of a test."""

    name: str
    """What it is called."""
    inner: Inner = Inner()


def refused(values: dict[str, object]) -> UserError:
    with pytest.raises(UserError) as caught:
        build(Outer, values, where="recipe.yaml")
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize(
    ("values", "what", "fix"),
    [
        ({"name": "x", "inner": {"ranc": 4}}, "unknown key `inner.ranc`", "nearest: `rank`"),
        ({"name": "x", "iner": {}}, "unknown key `iner`", "nearest: `inner`"),
        (
            {"name": "x", "inner": {"rank": 0}},
            "`inner.rank`: input should be greater",
            "`rank` is: Width of the update",
        ),
        ({"name": "x", "inner": {"kind": "cosin"}}, "`inner.kind`: 'cosin'", "nearest: `cosine`"),
        ({}, "`name` is required", "`name` is: What it is called"),
    ],
)
def test_faults_name_the_key_and_the_fix(values: dict[str, object], what: str, fix: str) -> None:
    error = refused(values)
    assert what in error.what and error.fix == fix and error.where == "recipe.yaml"


def test_all_faults_at_once() -> None:
    """Three faults are three lines."""
    error = refused({"nam": "x", "inner": {"rank": "many"}})
    assert error.what.startswith("3 settings are wrong") and error.what.count("\n  - ") == 3


def test_frozen() -> None:
    config = Outer(name="x")
    with pytest.raises(ValidationError):
        config.name = "y"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.b=1", {"a": {"b": 1, "keep": 2}}),
        ("a.new.deep=[x, y]", {"a": {"b": 0, "keep": 2, "new": {"deep": ["x", "y"]}}}),
        ("a.b=1e-4", {"a": {"b": 1e-4, "keep": 2}}),
        ("a.b=null", {"a": {"b": None, "keep": 2}}),
        ("a.b=true", {"a": {"b": True, "keep": 2}}),
        ("a.b=x=y", {"a": {"b": "x=y", "keep": 2}}),
        ("a={}", {"a": {}}),
    ],
)
def test_overrides(override: str, expected: dict[str, object]) -> None:
    """The value is YAML; the original stays as it was."""
    original = {"a": {"b": 0, "keep": 2}}
    assert apply_overrides(original, [override]) == expected
    assert original == {"a": {"b": 0, "keep": 2}}


@pytest.mark.parametrize("override", ["a", "=1", "a.b.c=1", "a.b=[1"])
def test_overrides_that_cannot_be_applied(override: str) -> None:
    with pytest.raises(UserError) as caught:
        apply_overrides({"a": {"b": 0}}, [override])
    assert caught.value.fix


def test_yaml_numbers_and_double_keys(tmp_path: Path) -> None:
    """YAML 1.1 calls 1e-4 a text, and keeps the last of two equal keys."""
    path = tmp_path / "r.yaml"
    path.write_text("rate: 1e-4\nsize: 1_000\nversion: 1.5e-3\nword: e4\n")
    assert read_yaml(path) == {"rate": 1e-4, "size": 1000, "version": 1.5e-3, "word": "e4"}
    path.write_text("a: {x: 1}\nb: {x: 2,\n  x: 3}\n")
    with pytest.raises(UserError, match="`x` is given twice") as caught:
        read_yaml(path)
    assert caught.value.where == f"{path}:3:3"


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "y", "N"])
def test_words_that_yaml_1_1_takes_for_true_or_false_stay_words(tmp_path: Path, word: str) -> None:
    """`on: general` is the setting `on`, and `choices: [yes, no]` are two words; YAML 1.1 reads true and false."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{word}: [{word}, true, False]\n")
    assert read_yaml(path) == {word: [word, True, False]}
    assert apply_overrides({}, [f"a=[{{{word}: {word}}}]"]) == {"a": [{word: word}]}


def test_yaml_builds_plain_values_only(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml(path)
