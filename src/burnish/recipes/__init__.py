"""Ready recipes that travel with the package, found by their name."""

from __future__ import annotations

from pathlib import Path

from burnish.core.errors import UserError
from burnish.core.names import suggestion

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the embedded recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_recipe(text: str) -> Path:
    """The file of a recipe given by path or by embedded name; an existing file goes before a name.

    Raises:
        UserError: It is neither.
    """
    path = Path(text)
    if path.is_file():
        return path
    if text in names():
        return FOLDER / f"{text}.yaml"
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        return path  # reading it says that it is missing, and what lies beside it
    raise UserError(f"`{text}` is neither a file nor an embedded recipe", fix=f"embedded, {suggestion(text, names())}")
