"""Read the package as text: its modules, their imports, classes and functions. No module is ever imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = "burnish"


@dataclass(frozen=True)
class Import:
    """One import of a module of this package, or of a library.

    Attributes:
        target: The imported module, as precisely as the package's own modules allow.
        line: Where it stands.
        lazy: Whether it stands inside a function.
        guarded: Whether it stands in a `try` that handles ImportError: an optional extra.
        own: Whether the target belongs to this package.
    """

    target: str
    line: int
    lazy: bool
    guarded: bool
    own: bool


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str
    path: str
    text: str
    is_package: bool

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text, filename=self.path)

    @property
    def room(self) -> str:
        """The folder of the package that it lies in, its own name for a file beside the rooms, empty for the root."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else ""

    @property
    def lines(self) -> int:
        """Length of the file."""
        return len(self.text.splitlines())


def read_package(root: Path) -> dict[str, Module]:
    """Every module below ``root``, the folder that holds the package's own folder."""
    modules = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules[name] = Module(name, str(path.relative_to(root.parent)), path.read_text(encoding="utf-8"), is_package)
    return modules


def imports_of(module: Module, known: dict[str, Module]) -> list[Import]:
    """Every import of a module, wherever it stands in the file.

    `from burnish.core import names` names the module `burnish.core.names` where there is one; relative imports are
    resolved against the module's own place.
    """
    found = []
    for node, lazy, guarded in _walk(module.tree, False, False):
        for target in _targets(node, module, known):
            own = target == PACKAGE or target.startswith(PACKAGE + ".")
            found.append(Import(target, node.lineno, lazy, guarded, own))
    return found


def functions_of(module: Module) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Every function with its length in lines, decorators and docstring included."""
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            yield node, (node.end_lineno or node.lineno) - first + 1


def _walk(node: ast.AST, lazy: bool, guarded: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node, lazy, guarded
    inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    attempted = (
        {id(child) for child in node.body} if isinstance(node, ast.Try) and _handles_import_error(node) else set()
    )
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, inside, guarded or id(child) in attempted)


def _handles_import_error(node: ast.Try) -> bool:
    names = {n.id for h in node.handlers if h.type is not None for n in ast.walk(h.type) if isinstance(n, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError"})


def _targets(node: ast.Import | ast.ImportFrom, module: Module, known: dict[str, Module]) -> list[str]:
    if isinstance(node, ast.Import):
        return [_longest_known(alias.name, known) for alias in node.names]
    base = node.module or ""
    if node.level:
        package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
        above = package[: len(package) - node.level + 1]
        base = ".".join([*above, *([base] if base else [])])
    return sorted({_longest_known(f"{base}.{alias.name}", known, fallback=base) for alias in node.names})


def _longest_known(name: str, known: dict[str, Module], fallback: str | None = None) -> str:
    """The module that a dotted name leads to; what follows it is a name inside that module."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        candidate = ".".join(parts[:length])
        if candidate in known:
            return candidate
    return name if fallback is None else fallback
