"""Strict configuration: frozen, unknown keys refused with the nearest valid name, overrides as `a.b=value`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from burnish.core.errors import UserError
from burnish.core.names import nearest, suggestion

_MOST_VALUES = 100_000


class Config(BaseModel):
    """Base of every configuration: frozen, strict about its keys, explained by its field descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)


C = TypeVar("C", bound=Config)


def read_yaml(path: Path, what: str = "recipe") -> dict[str, Any]:
    """Read a recipe with the safe loader, which builds plain values only and refuses object tags and double keys.

    Args:
        path: The file.
        what: What to call it in a message.

    Raises:
        UserError: The file is missing, is no YAML, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"the {what} does not exist", where=str(path), fix=_similar_files(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the {what} cannot be read: {error}", where=str(path), fix="name a UTF-8 YAML file") from None
    try:
        value = parse_value(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UserError(f"the {what} is not valid YAML: {problem}", where=place, fix="mend the line") from None
    if not isinstance(value, dict):
        raise UserError(f"the {what} is not a mapping of keys to values", where=str(path), fix="see docs/recipe.md")
    return value


def parse_value(text: str) -> Any:
    """The one value that YAML text holds, unless its aliases unfold to more values than a recipe can mean.

    Raises:
        ValueError: They do.
        yaml.YAMLError: The text is no YAML.
    """
    loader = _UniqueKeys(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _unfolded(node, {}) > _MOST_VALUES:
            raise ValueError(f"its aliases unfold to more than {_MOST_VALUES:,} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _unfolded(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for when each alias is written out; infinitely many if it holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")  # until it is counted
        held = node.value if isinstance(node, yaml.CollectionNode) else []
        inner = [part for item in held for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in inner)
    return known[id(node)]


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, but a key written twice is an error: YAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(getattr(key_node, "value", ""))
            if key in seen:
                problem = f"the key `{key}` is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads `on`, `off`, `yes`, `no` as true and false, also as a key (`on: general`) and as a choice
# (`[yes, no]`); YAML 1.2 reads words. Where a setting is true or false, these words still say so.
_BOOL = "tag:yaml.org,2002:bool"
_UniqueKeys.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != _BOOL]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_UniqueKeys.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
# YAML 1.1 reads `1e-4` as a string; every user means the number.
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``values`` with each ``section.key=value`` applied, the value read as YAML, and each ``@FILE`` laid over.

    Raises:
        UserError: An override has no ``=``, or descends into something that is not a mapping; a file cannot be read.
    """
    result = _copy(values)
    for override in overrides:
        if override.startswith("@"):
            result = overlaid(result, read_yaml(Path(override[1:]), "file of settings"))
            continue
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            fix = "write it as `train.learning_rate=1e-4`, or name a file of settings as `@FILE.yaml`"
            raise UserError(f"`{override}` is not an override", fix=fix)
        target: Any = result
        *parents, last = key.strip().split(".")
        for depth, name in enumerate(parents):
            target = _descend(target, name, ".".join(parents[: depth + 1]), override)
        try:
            target[_key(target, last, key.strip(), override)] = parse_value(text)
        except (yaml.YAMLError, RecursionError, ValueError):
            raise UserError(f"the value of `{override}` is not valid YAML", fix="quote the value") from None
    return result


CHOOSES = ("method", "kind")
"""Keys by which a section says what it is."""


def overlaid(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others laid over them, key by key and section by section.

    A section that says what it is (``method``, ``kind``) takes the place of the other as a whole: the settings of one
    method mean nothing to another.
    """
    result = dict(values)
    for key, value in over.items():
        below = result.get(key)
        sections = isinstance(value, Mapping) and isinstance(below, Mapping)
        whole = isinstance(value, Mapping) and any(name in value for name in CHOOSES)
        result[key] = overlaid(below, value) if sections and not whole else _copy(value)  # type: ignore[arg-type]
    return result


def _descend(section: Any, name: str, place: str, override: str) -> Any:
    """The mapping or list of this name in a section; a missing one is made."""
    key = _key(section, name, place, override)
    child = section.get(key) if isinstance(section, dict) else section[key]
    if child is None:
        child = section[key] = {}
    if not isinstance(child, (dict, list)):
        fix = f"write `{place}` as a mapping, or override it as a whole"
        raise UserError(f"`{place}` is not a section, so `{override}` cannot be applied", where=place, fix=fix)
    return child


def _key(section: Any, name: str, place: str, override: str) -> Any:
    """What a section calls an entry: a list counts from 0."""
    if not isinstance(section, list):
        return name
    if not name.isdigit() or int(name) >= len(section):
        fix = f"its entries are 0 to {len(section) - 1}" if section else "it is empty"
        raise UserError(f"`{place}` names no entry of a list, so `{override}` cannot be applied", where=place, fix=fix)
    return int(name)


def build(cls: type[C], values: Mapping[str, Any], *, where: str = "recipe") -> C:
    """Validate ``values`` against ``cls``; every fault is listed at once, unknown keys with the nearest valid one.

    Raises:
        UserError: Any key or value is wrong.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        faults = [_explain(cls, e) for e in error.errors()]
    if len(faults) == 1:
        what, fix = faults[0]
        raise UserError(what, where=where, fix=fix)
    lines = "\n".join(f"  - {what}" + (f" ({fix})" if fix else "") for what, fix in faults)
    raise UserError(f"{len(faults)} settings are wrong:\n{lines}", where=where)


def _explain(cls: type[Config], error: Any) -> tuple[str, str]:
    path, owner = _follow(cls, [part for part in error["loc"] if isinstance(part, (str, int))])
    dotted = ".".join(str(p) for p in path) or "(top level)"
    if error["type"] == "extra_forbidden":
        return f"unknown key `{dotted}`", _known_key(cls, owner, dotted)
    if error["type"] == "missing":
        return f"`{dotted}` is required", _meaning(owner, path) or f"add `{path[-1]}`"
    message = error["msg"].removeprefix("Value error, ")
    given, context = error.get("input"), error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        return f"`{dotted}`: there is no `{context['tag']}`", suggestion(
            context["tag"], _quoted(context["expected_tags"])
        )
    if error["type"] == "literal_error":
        return f"`{dotted}`: {given!r:.80} is none of its values", suggestion(str(given), _quoted(context["expected"]))
    shown = f", got {given!r:.80}" if not isinstance(given, (dict, list)) else ""
    return f"`{dotted}`: {message[0].lower()}{message[1:]}{shown}", _meaning(owner, path) or "correct the value"


def _known_key(cls: type[Config], owner: type[Config], dotted: str) -> str:
    """What was probably meant: a like name in the same section, or the very name in another."""
    name = dotted.rpartition(".")[2]
    places = _places(cls, name)
    if dotted in places:  # of a section that is one of several: another method has this setting
        return f"another choice of this section has it; this one has {', '.join(f'`{n}`' for n in owner.model_fields)}"
    elsewhere = [f"`{place}`" for place in places]
    if elsewhere and not nearest(name, owner.model_fields):
        return f"it belongs elsewhere: {' or '.join(elsewhere)}"
    return suggestion(name, owner.model_fields)


def _places(cls: type[Config], name: str, above: str = "") -> list[str]:
    """Dotted paths of all settings of this name, each once."""
    found = [above + name] if name in cls.model_fields else []
    for section, field in cls.model_fields.items():
        for inner in _config_types(field.annotation):
            found += _places(inner, name, f"{above}{section}.")
    return list(dict.fromkeys(found))


def _quoted(text: str) -> list[str]:
    """The names in a sentence such as "'a', 'b' or 'c'"."""
    return re.findall(r"'([^']*)'", text)


def _meaning(owner: type[Config], path: Sequence[Any]) -> str:
    """The first sentence of what a setting is for."""
    field = owner.model_fields.get(str(path[-1])) if path else None
    text = " ".join((field.description or "").split()) if field else ""
    first = re.split(r"(?<=[.:;]) ", text)[0].rstrip(".:;")
    return f"`{path[-1]}` is: {first}" if first else ""


def _follow(cls: type[Config], location: Sequence[Any]) -> tuple[list[Any], type[Config]]:
    """A path as a recipe writes it, and the section that its last name is in.

    pydantic also names the member of a union on the way: `adapter.lora.rank` for what a recipe calls `adapter.rank`,
    or the tag that a function gave it, which we write in brackets: `adapter.[single].lora.rank`.
    """
    path: list[Any] = []
    holders = inside = [cls]
    for part in location:
        if isinstance(part, str) and part.startswith("["):
            continue
        members = [c for c in inside if part == c.__name__ or _is_tag(c, part)]
        if path and members:
            inside = members
            continue
        holders = inside
        path.append(part)
        inside = [c for owner in holders for c in _configs_in(owner, str(part))] or holders
    return path, holders[0]


def _is_tag(cls: type[Config], part: Any) -> bool:
    """Whether a union's members are told apart by a setting that has only this value in ``cls``."""
    return any(get_args(f.annotation) == (part,) for f in cls.model_fields.values())


def _configs_in(owner: type[Config], name: str) -> list[type[Config]]:
    field = owner.model_fields.get(name)
    return _config_types(field.annotation) if field else []


def _config_types(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [c for inner in get_args(annotation) for c in _config_types(inner)]


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _similar_files(path: Path) -> str:
    folder = path.parent
    names = [p.name for p in folder.iterdir() if p.suffix in {".yaml", ".yml"}] if folder.is_dir() else []
    return f"in {folder}: {', '.join(sorted(names))}" if names else "name an existing file"
