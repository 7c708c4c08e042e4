"""Find out what a model's path means: a folder, a GGUF file, or a name on the hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from burnish.core.errors import UserError
from burnish.core.names import nearest
from burnish.core.paths import PACKAGE_PREFIX, resolve_path

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Location:
    """Where a model is.

    Attributes:
        kind: ``folder`` (with a `config.json`), ``gguf`` (one file) or ``hub`` (a name).
        path: The folder or file, or the hub name as text.
        shown: What the recipe said.
    """

    kind: Literal["folder", "gguf", "hub"]
    path: Path | str
    shown: str


def locate(text: str, base: Path | None = None) -> Location:
    """Tell folder, GGUF file and hub name apart.

    What exists on this machine wins; a name of at most one slash that exists nowhere here is taken for the hub's.

    Args:
        text: The recipe's `model.path`.
        base: Folder of the recipe, where relative paths start; the working folder if None.

    Raises:
        UserError: A path that does not exist, a file that is no GGUF, or a folder without a `config.json`.
    """
    text = text.strip()
    if not _looks_local(text, base) and _HUB_NAME.fullmatch(text):
        return Location("hub", text, text)
    path = resolve_path(text, base)
    if path.is_file():
        return _file(path, text)
    if not (path / "config.json").is_file():
        raise UserError("the folder holds no model: it has no `config.json`", where=str(path), fix=_models_below(path))
    return Location("folder", path, text)


def _looks_local(text: str, base: Path | None) -> bool:
    if text.startswith((PACKAGE_PREFIX, ".", "~", "/", os.sep)) or text.endswith(".gguf") or "\\" in text:
        return True
    try:
        return ((base or Path.cwd()) / text).exists()
    except (OSError, ValueError):
        return False


def _file(path: Path, text: str) -> Location:
    if path.suffix.lower() != ".gguf":
        fix = "name the folder that holds it" if (path.parent / "config.json").is_file() else "name a folder or a GGUF"
        raise UserError(
            "a model is a folder, a GGUF file or a hub name; this is another file", where=str(path), fix=fix
        )
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(
                "the file is not GGUF: it does not start with the letters GGUF", where=str(path), fix="fetch it again"
            )
    return Location("gguf", path, text)


def _models_below(path: Path) -> str:
    found = sorted(p.parent.relative_to(path) for p in path.glob("*/config.json"))
    ggufs = sorted(p.name for p in path.glob("*.gguf"))
    if (path / "adapter_config.json").is_file():
        return "this is an adapter, not a model: name its base model, or merge it with `burnish merge`"
    options = [str(p) for p in found] + ggufs
    if not options:
        return "name a folder as `save_pretrained` writes it"
    near = nearest(path.name, options)
    return f"below it: {', '.join(f'`{o}`' for o in (near or options)[:5])}"
