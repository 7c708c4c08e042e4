"""Names, the registry, findings, means and paths."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from burnish.core.errors import BurnishError, TrainingStopped, UserError
from burnish.core.findings import Finding, refuse_stops
from burnish.core.names import nearest, suggestion
from burnish.core.paths import cache_folder, resolve_path
from burnish.core.registry import Registry
from burnish.core.types import Mean


def test_suggestions() -> None:
    assert nearest("learning_rat", ["weight_decay", "learning_rate"]) == ["learning_rate"]
    assert suggestion("zzz", ["b", "a"]) == "one of: `a`, `b`"


def test_exit_codes() -> None:
    """1 for what nobody foresaw, 2 for what is refused, 3 for a run that was stopped."""
    assert [e("x").exit_code for e in (BurnishError, UserError, TrainingStopped)] == [1, 2, 3]
    assert str(UserError("a", where="b", fix="c")) == "a\n  where: b\n  fix:   c"


def test_registry() -> None:
    table: Registry[int] = Registry("number")
    table.register("one")(1)
    assert table["one"] == 1 and "one" in table and list(table) == ["one"] and len(table) == 1
    with pytest.raises(UserError, match="unknown number `oen`") as caught:
        table["oen"]
    assert "`one`" in caught.value.fix
    with pytest.raises(ValueError, match="twice"):
        table.register("one")(2)


def test_stops_are_refused_together() -> None:
    note, stop, other = (Finding(s, "room.code", s + "!", "here", "why", "fix") for s in ("note", "stop", "stop"))
    refuse_stops([note])
    with pytest.raises(UserError, match=r"stop! \(room.code\) why") as caught:
        refuse_stops([note, stop])
    assert caught.value.fix == "fix"
    with pytest.raises(UserError, match="2 faults"):
        refuse_stops([stop, other])


def test_means_add_as_sums_and_counts() -> None:
    """(1 + 2 + 3) / 3 and 10 / 1 are 16 / 4 together, not the mean 6 of both means."""
    assert (Mean(6.0, 3.0) + Mean(10.0, 1.0)).value == 4.0
    assert Mean(0.0, 0.0).value != Mean(0.0, 0.0).value


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package that must never be imported."""
    folder = tmp_path / "carrier"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "data" / "rows.csv").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_paths_inside_packages(package: Path) -> None:
    assert resolve_path("package:carrier/data/rows.csv") == package / "data" / "rows.csv"
    assert "carrier" not in sys.modules


@pytest.mark.parametrize(
    "text", ["package:carrier/../secret", "package:carrier", "package:/etc/passwd", "package:a.b/c"]
)
def test_paths_that_leave_their_package(package: Path, text: str) -> None:
    (package.parent / "secret").touch()
    with pytest.raises(UserError, match="not a path inside a package"):
        resolve_path(text)


def test_links_that_leave_their_package(package: Path) -> None:
    (package.parent / "secret").touch()
    (package / "link").symlink_to(package.parent / "secret")
    with pytest.raises(UserError, match="leads out"):
        resolve_path("package:carrier/link")


def test_missing_paths_name_their_neighbours(package: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        resolve_path("package:carrier/data/row.csv")
    assert "rows.csv" in caught.value.fix
    with pytest.raises(UserError, match="not installed"):
        resolve_path("package:not_there_at_all/x")
    with pytest.raises(UserError) as caught:
        resolve_path("nowhere/x.csv", tmp_path)
    assert "nowhere" in caught.value.fix


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("BURNISH_CACHE", raising=False)
    assert cache_folder() == Path("/x/burnish")
    monkeypatch.setenv("BURNISH_CACHE", "/y")
    assert cache_folder() == Path("/y")
