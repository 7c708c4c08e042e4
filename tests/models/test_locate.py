"""What a path means, and what is said when nothing is there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from burnish.core.errors import UserError
from burnish.core.paths import cache_folder, resolve_path
from burnish.models.locate import locate


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that must not be imported: importing it fails."""
    root = tmp_path / "site" / "carrier"
    (root / "inner").mkdir(parents=True)
    (root / "__init__.py").write_text("raise RuntimeError('imported')")
    (root / "inner" / "weights.gguf").write_bytes(b"GGUF")
    (tmp_path / "site" / "secret.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return root


def test_a_package_path_is_found_without_an_import(package: Path) -> None:
    location = locate("package:carrier/inner/weights.gguf")
    assert (location.kind, location.path) == ("gguf", package / "inner" / "weights.gguf")
    assert "carrier" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        "package:carrier/../secret.gguf",
        "package:carrier/inner/../../secret.gguf",
        "package:carrier//etc/passwd",
        "package:carrier/inner\\..\\..\\secret.gguf",
        "package:../carrier/inner",
        "package:carrier.inner/weights.gguf",
        "package:carrier",
        "package:carrier/",
        "package:",
    ],
)
def test_a_package_path_cannot_climb_out(package: Path, text: str) -> None:
    with pytest.raises(UserError, match="not a path inside a package"):
        resolve_path(text)


def test_a_link_out_of_a_package_is_refused(package: Path) -> None:
    (package / "link.gguf").symlink_to(package.parent / "secret.gguf")
    with pytest.raises(UserError, match="leads out of its package"):
        resolve_path("package:carrier/link.gguf")


def test_a_missing_package_and_a_missing_file_name_the_fix(package: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)`no_such_package` is not installed.*requirements/demo.txt"):
        resolve_path("package:no_such_package/file")
    with pytest.raises(UserError, match=r"(?s)has no `inner/weight.gguf`.*nearest: `weights.gguf`"):
        resolve_path("package:carrier/inner/weight.gguf")
    with pytest.raises(UserError, match="has no `elsewhere"):
        resolve_path("package:carrier/elsewhere/weights.gguf")


def test_relative_paths_start_at_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.csv").write_text("a")
    assert resolve_path("data.csv", tmp_path) == tmp_path / "data.csv"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_path("~/data.csv") == tmp_path / "data.csv"
    with pytest.raises(UserError, match=r"nearest: `data\.csv`"):
        resolve_path("dta.csv", tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        resolve_path(str(tmp_path / "no" / "such" / "folder"))


@pytest.mark.parametrize("text", ["a\0b", "x" * 5000])
def test_names_that_no_file_can_have(text: str) -> None:
    with pytest.raises(UserError, match="does not exist"):
        resolve_path(text)


def test_the_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BURNISH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "burnish"
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_kinds_of_location(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert locate("model", tmp_path).kind == "folder"
    assert locate(str(folder)).path == folder
    assert locate("organisation/name", tmp_path).kind == "hub"
    assert locate("gpt2", tmp_path).path == "gpt2"


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"(?s)no `config.json`.*`inner`"):
        locate(str(tmp_path))
    with pytest.raises(UserError, match="name the folder that holds it"):
        locate(str(tmp_path / "inner" / "config.json"))
    (tmp_path / "bad.gguf").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not GGUF"):
        locate("bad.gguf", tmp_path)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="burnish merge"):
        locate(str(adapter))
    for text in ("./nothing", "nothing.gguf", "a/b/c", "not a name!"):
        with pytest.raises(UserError, match="does not exist"):
            locate(text, tmp_path)
