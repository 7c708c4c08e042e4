"""Write what is generated from the code: docs/recipe*, docs/cli/ and the packaged table of tested versions.

Called by `make docs`. A test holds the committed files against what this would write.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from burnish.adapters.peft_bridge import PeftBridgeConfig
from burnish.adapters.registry import METHODS
from burnish.cli.main import app
from burnish.core.config import Config
from burnish.train.config import RunConfig

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "src/burnish/recipes/quickstart.yaml"
NOTE = "<!-- Generated from the code by `make docs`; edit the code instead. -->"
USED_EXTRAS = ("metrics", "bitsandbytes", "peft", "distributed", "search", "trackers")
"""The extras that a user may want; those for developers are left out of `burnish doctor`."""


CHOSEN_BY = {"adapter": "method", "task": "kind", "regularizers": "kind"}
"""Sections that are one of several configurations, with the setting that says which."""


def generated() -> dict[Path, str]:
    """Every generated file, by its path from the root of the repository."""
    return {
        Path("src/burnish/diagnose/tested_versions.json"): tested_versions(),
        Path("docs/recipe.md"): recipe_index(),
        **{Path(f"docs/recipe/{name}.md"): section_page(name) for name in sections()},
        Path("docs/cli/README.md"): cli_index(),
        **{Path(f"docs/cli/{name}.md"): cli_page(name, command) for name, command in commands().items()},
    }


# --- versions ---------------------------------------------------------------------------------------------------------


def tested_versions() -> str:
    """The libraries of pyproject.toml with their lower bound, and the version of constraints.txt, as JSON."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {_plain(n): v.strip() for n, equals, v in (line.partition("==") for line in lines) if equals}
    wanted: list[tuple[str, str | None]] = [(requirement, None) for requirement in project["dependencies"]]
    wanted += [(r, extra) for extra in USED_EXTRAS for r in project["optional-dependencies"][extra]]
    rows = [_version_row(requirement, extra, pinned) for requirement, extra in wanted]
    return json.dumps(rows, indent=2) + "\n"


def _version_row(requirement: str, extra: str | None, pinned: dict[str, str]) -> dict[str, str | None]:
    match = re.fullmatch(r"([A-Za-z0-9._-]+?)\s*(?:>=\s*([0-9.]+))?", requirement.strip())
    if match is None:
        raise ValueError(f"pyproject.toml: `{requirement}` is not of the form `name` or `name>=version`")
    return {"name": match[1], "tested": pinned.get(_plain(match[1])), "minimum": match[2], "extra": extra}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


# --- recipe -----------------------------------------------------------------------------------------------------------


def sections() -> list[str]:
    """The sections of a recipe, in their order."""
    return [name for name, field in RunConfig.model_fields.items() if _configs(name, field)]


def recipe_index() -> str:
    """The recipe as a whole: an example, the settings at its top, and where each section is explained."""
    example = (QUICKSTART.read_text(encoding="utf-8")).strip()
    parts = [NOTE, "# The recipe", _RECIPE_INTRODUCTION, f"```yaml\n{example}\n```", _table(RunConfig)]
    return "\n\n".join(parts) + "\n"


def section_page(name: str) -> str:
    """One section with every setting, from the configuration classes and their field docstrings."""
    shown: set[type[Config]] = set()
    inner = _configs(name, RunConfig.model_fields[name])
    parts = [NOTE, f"# Recipe: `{name}`"]
    if name in CHOSEN_BY:
        key = CHOSEN_BY[name]
        for config in inner:
            parts += [f"## `{key}: {config.model_fields[key].default}`", *_section(config, name, shown)]
    else:
        parts += [part for config in inner for part in _section(config, name, shown)]
    return "\n\n".join(parts) + "\n"


_RECIPE_INTRODUCTION = """\
A recipe is a YAML file. Three sections have to be there: `model`, `data` and `adapter`; the rest has defaults.
`model: PATH` is short for `model: {path: PATH}`, `adapter: lora` for `adapter: {method: lora}`, and
`task: classification` for `task: {kind: classification}`. An unknown key is an error that names the nearest valid one.
Any setting can be changed from the command line, as in `burnish run recipe.yaml train.learning_rate=1e-4`, and
`burnish run recipe.yaml @settings.yaml` lays a file of settings over the recipe, section by section; a section with a
`method` or `kind` takes the place of the recipe's as a whole. A copy with every default filled in is written to the
run's folder.

Embedded recipes run by their name: `quickstart`, and `sentiment-encoder`, which trains a classification head on an
encoder. The `quickstart`:"""


def _section(cls: type[Config], path: str, shown: set[type[Config]]) -> Iterator[str]:
    """What a section is for, its settings, and the sections inside it; each class is explained once."""
    shown.add(cls)
    yield _paragraphs(cls.__doc__ or "")
    yield _table(cls)
    for name, field in cls.model_fields.items():
        members = _configs(name, field)
        for inner in members:
            if inner not in shown:
                which = f": `kind: {inner.model_fields['kind'].default}`" if len(members) > 1 else ""
                yield f"{'#' * (2 + path.count('.'))} `{path}.{name}`{which}"
                yield from _section(inner, f"{path}.{name}", shown)


def _table(cls: type[Config]) -> str:
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, field in cls.model_fields.items():
        shown = f"[`{name}`](recipe/{name}.md)" if cls is RunConfig and _configs(name, field) else f"`{name}`"
        rows.append(f"| {shown} | {_type(field)} | {_default(field)} | {_meaning(name, field)} |")
    return "\n".join(rows)


def _configs(name: str, field: FieldInfo) -> list[type[Config]]:
    """The configuration classes that a setting may hold; those of `adapter` are the registered methods'."""
    if name == "adapter":
        return [*(METHODS[method].config for method in sorted(METHODS)), PeftBridgeConfig]
    return list(dict.fromkeys(_config_types(field.annotation)))


def _config_types(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _config_types(inner)]


def _type(field: FieldInfo) -> str:
    limits = [_limit(item) for item in field.metadata]
    return ", ".join([_annotation(field.annotation), *(limit for limit in limits if limit)])


def _annotation(annotation: Any) -> str:
    """A type as a reader of YAML would call it."""
    plain = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null", Any: "any value"}
    if annotation in plain:
        return plain[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return "section"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in inner)
    if origin in (list, tuple, set, frozenset):
        members = dict.fromkeys(_annotation(a) for a in inner if a is not Ellipsis)
        count = f" of {len(inner)}" if origin is tuple and Ellipsis not in inner else ""
        return f"list{count} ({', '.join(members)})"
    if origin is dict:
        return f"mapping from {_annotation(inner[0])} to {_annotation(inner[1])}"
    if inner:
        return " or ".join(dict.fromkeys(_annotation(a) for a in inner if a.__class__ is not FieldInfo))
    return "section"


def _limit(item: Any) -> str:
    signs: dict[type, tuple[str, str]] = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
    sign, attribute = signs.get(type(item), ("", ""))
    return f"{sign} {getattr(item, attribute)}" if sign else ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, Config):
        return "see there"
    return f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|")


def _meaning(name: str, field: FieldInfo) -> str:
    if field.description:
        return " ".join(field.description.split()).replace("|", "\\|")
    inner = _configs(name, field)
    if name == "adapter":
        methods = ", ".join(f"`{config.model_fields['method'].default}`" for config in inner)
        return f"What is trained: one of the methods {methods}, with its settings."
    if name == "task":
        return "What is learnt: " + " or ".join(f"`{c.model_fields['kind'].default}`" for c in inner) + "."
    if name == "method":
        return "The name of the method."
    return _paragraphs(inner[0].__doc__ or "").split("\n")[0] if len(inner) == 1 else ""


def _paragraphs(docstring: str) -> str:
    """A class's docstring as Markdown: its paragraphs, up to the first Google-style section."""
    text = re.split(r"\n\s*(?:Attributes|Args|Raises|Returns):", docstring)[0]
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return "\n\n".join(part for part in paragraphs if part).replace("``", "`")


# --- command line -----------------------------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """The commands of the command line, in the order of its help."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def cli_index() -> str:
    """The list of commands."""
    rows = [f"| [`burnish {name}`]({name}.md) | {_first_line(command)} |" for name, command in commands().items()]
    codes = (
        "Exit codes: 0 done, 2 refused (a recipe, file or setting is wrong; nothing was overwritten), 3 stopped to "
        "protect the result, 130 interrupted, 1 any other error."
    )
    return (
        "\n\n".join([NOTE, "# Commands", "\n".join(["| command | what it does |", "|---|---|", *rows]), codes]) + "\n"
    )


def cli_page(name: str, command: Any) -> str:
    """One command: how it is called, its arguments and its options."""
    context = typer.Context(command, info_name=f"burnish {name}")
    usage = context.get_usage().removeprefix("Usage: ")
    parts = [NOTE, f"# burnish {name}", _paragraphs(command.help or ""), f"```\n{usage}\n```"]
    for kind in ("argument", "option"):
        records = [p.get_help_record(context) for p in command.params if p.param_type_name == kind]
        rows = [f"| `{cells[0]}` | {cells[1]} |" for cells in map(_cells, records) if cells]
        if rows:
            parts.append("\n".join([f"| {kind} | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _first_line(command: Any) -> str:
    return _paragraphs(command.help or "").split("\n")[0]


def _cells(record: tuple[str, str] | None) -> tuple[str, str] | None:
    """The two columns of a parameter's help, None for a hidden one; a bar would end a cell."""
    if record is None:
        return None
    names, text = (" ".join(part.split()).replace("|", "\\|") for part in record)
    return names, text


def main() -> None:
    """Write every generated file, and drop the pages of commands and sections that are gone."""
    files = generated()
    present = {page for folder in ("docs/cli", "docs/recipe") for page in (ROOT / folder).glob("*.md")}
    for stale in present - {ROOT / path for path in files}:
        stale.unlink()
    for path, text in files.items():
        target = ROOT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
