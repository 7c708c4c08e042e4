"""The rules of the house, each a function from the package's modules to the sentences that say what breaks it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from tests.architecture.source import PACKAGE, Import, Module, functions_of, imports_of

Modules = dict[str, Module]

FLOORS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("ops",),
    ("models", "data"),
    ("adapters", "objectives", "augment", "regularizers", "rollouts", "optim", "evaluate", "checkpoint", "diagnose"),
    ("train", "plan", "compose"),
    ("recipes", "report", "studio", "benchmarks", "compare", "trials", "forecast"),
    ("api",),
    ("cli",),
)
"""Rooms by floor, the lowest first. `api` is the one file beside the rooms: the library's face, which `cli` uses."""

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70
SHARED = {"MethodConfig"}
"""Its fields (name, tasks, rate) are those of an entry in a list, whatever the method."""
MAX_CONFIG_FIELDS = 15
WHOLE = {"RunConfig"}
"""A recipe has one field for each of its sections."""
MAX_LADDER = 3

LAZY_ALLOWED = ("", "cli")
"""The root, whose names are loaded when they are first used, and the command line, whose --help must be quick."""


def known_rooms(modules: Modules) -> Iterator[str]:
    """Every room has its floor, and holds something."""
    for room in sorted({m.room for m in modules.values()} - {""}):
        members = [m for m in modules.values() if m.room == room]
        if room not in FLOOR:
            yield f"{members[0].path}: the room `{room}` has no floor; give it one in FLOORS, or move its files"
        elif not any(_holds_something(m) for m in members):
            yield f"{members[0].path}: the room `{room}` is empty; make it when its first method comes"


def imports_go_down(modules: Modules) -> Iterator[str]:
    """A room imports lower floors only: never a higher one, never a neighbour on its own."""
    for module in modules.values():
        for found in imports_of(module, modules):
            fault = _floor_fault(module, found)
            if fault:
                yield f"{module.path}:{found.line}: {fault}"


def no_circles(modules: Modules) -> Iterator[str]:
    """No module imports itself by way of others."""
    following = {n: {f.target for f in imports_of(m, modules) if f.target in modules} for n, m in modules.items()}
    following[PACKAGE] = set()  # the root loads its names when they are used, from every room
    done: set[str] = set()
    for name in sorted(following):
        circle = _circle_from(name, following, done, [])
        if circle:
            shown = " -> ".join(circle)
            yield f"{modules[circle[0]].path}: a circle of imports: {shown}; move what both need into a file of its own"


def no_lazy_imports(modules: Modules) -> Iterator[str]:
    """Imports stand at the top of a file, save in the command line and for optional extras."""
    for module in modules.values():
        if module.room in LAZY_ALLOWED:
            continue
        for found in imports_of(module, modules):
            if found.lazy and (found.own or not found.guarded):
                yield (
                    f"{module.path}:{found.line}: `{found.target}` is imported inside a function; move it to the top, "
                    "or guard an optional extra with try/except ImportError and say how to install it"
                )


def only_the_root_reexports(modules: Modules) -> Iterator[str]:
    """The `__init__` of a room imports nothing of its own room, which would tie its files into knots."""
    for module in modules.values():
        if not module.is_package or module.name == PACKAGE:
            continue
        for found in imports_of(module, modules):
            if found.target.startswith(module.name + "."):
                yield f"{module.path}:{found.line}: re-exports `{found.target}`; import it where it is used"


def short_files(modules: Modules) -> Iterator[str]:
    """A file can be read in one sitting."""
    for module in modules.values():
        if module.lines > MAX_FILE_LINES:
            yield f"{module.path}: {module.lines} lines, {MAX_FILE_LINES} at most; make two files of it"


def short_functions(modules: Modules) -> Iterator[str]:
    """A function does one thing."""
    for module in modules.values():
        for node, length in functions_of(module):
            if length > MAX_FUNCTION_LINES:
                yield (
                    f"{module.path}:{node.lineno}: `{node.name}` has {length} lines, {MAX_FUNCTION_LINES} at most; "
                    "name a part of it and call that"
                )


def small_configs(modules: Modules) -> Iterator[str]:
    """A configuration of more than fifteen fields is two; inherited fields count, but not those of every entry."""
    classes = {n.name: (m, n) for m in modules.values() for n in ast.walk(m.tree) if isinstance(n, ast.ClassDef)}
    for name, (module, node) in classes.items():
        if "Config" not in _ancestors(name, classes) or name in WHOLE:
            continue
        count = sum(_own_fields(classes[c][1]) for c in {name, *_ancestors(name, classes)} - SHARED if c in classes)
        if count > MAX_CONFIG_FIELDS:
            yield (
                f"{module.path}:{node.lineno}: `{name}` has {count} fields, {MAX_CONFIG_FIELDS} at most; "
                "group some into a section of their own"
            )


def no_ladders(modules: Modules) -> Iterator[str]:
    """Methods are chosen from a table, never by a ladder of `elif name == "..."`."""
    for module in modules.values():
        rungs = {id(n.orelse[0]) for n in ast.walk(module.tree) if isinstance(n, ast.If) and _is_elif(n)}
        for node in ast.walk(module.tree):
            if isinstance(node, ast.If) and id(node) not in rungs:
                subject, count = _ladder(node)
                if count > MAX_LADDER:
                    yield (
                        f"{module.path}:{node.lineno}: {count} branches compare `{subject}` with a name; "
                        "put the cases into a table (a dict or core.registry.Registry)"
                    )


RULES: dict[str, Callable[[Modules], Iterator[str]]] = {
    rule.__name__: rule
    for rule in (
        known_rooms,
        imports_go_down,
        no_circles,
        no_lazy_imports,
        only_the_root_reexports,
        short_files,
        short_functions,
        small_configs,
        no_ladders,
    )
}


def _holds_something(module: Module) -> bool:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    return any(isinstance(node, kinds) for node in module.tree.body)


def _floor_fault(module: Module, found: Import) -> str:
    if not found.own or not module.room:
        return ""
    target = found.target.split(".")[1] if found.target != PACKAGE else ""
    here, there = FLOOR.get(module.room), FLOOR.get(target)
    if target == module.room or here is None:
        return ""
    if not target:
        # The command line asks the root for its version; for everyone else the root is above.
        return "" if module.room == "cli" else "imports the root package; import the module that holds the name"
    if there is None or there < here:
        return ""
    if there == here:
        shared = "a lower floor" if here else "one of the two"
        return f"`{module.room}` imports its neighbour `{target}` (`{found.target}`); move what both need to {shared}"
    return (
        f"`{module.room}` (floor {here}) imports `{target}` (floor {there}), which is above it; pass the value in as "
        f"an argument, or move `{found.target}` down"
    )


def _circle_from(name: str, following: dict[str, set[str]], done: set[str], trail: list[str]) -> list[str]:
    if name in trail:
        return [*trail[trail.index(name) :], name]
    if name in done:
        return []
    for target in sorted(following[name]):
        circle = _circle_from(target, following, done, [*trail, name])
        if circle:
            done.update(trail)
            return circle
    done.add(name)
    return []


def _ancestors(name: str, classes: dict[str, tuple[Module, ast.ClassDef]]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        bases = [b.id for b in classes[current][1].bases if isinstance(b, ast.Name)] if current in classes else []
        waiting += [b for b in bases if b not in found]
        found.update(bases)
    return found


def _own_fields(node: ast.ClassDef) -> int:
    fields = [s for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
    return sum("ClassVar" not in ast.unparse(f.annotation) for f in fields)


def _is_elif(node: ast.If) -> bool:
    return len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If)


def _ladder(node: ast.If) -> tuple[str, int]:
    """What the branches of an if/elif chain compare with a string, and how many do so."""
    subject, count = _compared_with_name(node.test), 1
    while subject and _is_elif(node):
        following = node.orelse[0]
        assert isinstance(following, ast.If)
        if _compared_with_name(following.test) != subject:
            break
        node, count = following, count + 1
    return (subject, count) if subject else ("", 0)


def _compared_with_name(test: ast.expr) -> str:
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq):
        return ""
    right = test.comparators[0]
    return ast.unparse(test.left) if isinstance(right, ast.Constant) and isinstance(right.value, str) else ""
