"""The package keeps the rules of the house, and each rule is shown to catch what it forbids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.architecture.rules import FLOOR, RULES
from tests.architecture.source import Module, imports_of, read_package

SOURCE = Path(__file__).parents[2] / "src"

PACKAGE = read_package(SOURCE)


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule: str) -> None:
    """No module of the package breaks it; each line of the message says where and what to do."""
    broken = list(RULES[rule](PACKAGE))
    assert not broken, "\n" + "\n".join(broken)


def test_every_file_of_the_package_is_read() -> None:
    """The rules would hold of nothing at all: the count of modules equals the count of files, core's among them."""
    assert len(PACKAGE) == len(list((SOURCE / "burnish").rglob("*.py")))
    assert {"burnish", "burnish.core.config", "burnish.cli.main", "burnish.ops.machine"} <= set(PACKAGE)
    assert any(found.own for found in imports_of(PACKAGE["burnish.train.config"], PACKAGE))


def planted(files: Mapping[str, str]) -> dict[str, Module]:
    """A package of a few lines, by module name; a room's `__init__` is written with its own name."""
    names = set(files) | {"burnish"} | {".".join(n.split(".")[:2]) for n in files if n.count(".") > 1}
    return {
        name: Module(name, f"src/{name.replace('.', '/')}.py", files.get(name, ""), name.count(".") < 2)
        for name in sorted(names)
    }


FORBIDDEN: dict[str, tuple[str, dict[str, str], str]] = {
    "an arrow up": (
        "imports_go_down",
        {"burnish.ops.a": "x = 1\nfrom burnish.train.loop import step", "burnish.train.loop": "def step(): ..."},
        "src/burnish/ops/a.py:2: `ops` (floor 1) imports `train` (floor 4)",
    ),
    "an arrow up from inside a function": (
        "imports_go_down",
        {"burnish.core.a": "def f():\n    import burnish.models.load", "burnish.models.load": "x = 1"},
        "src/burnish/core/a.py:2: `core` (floor 0) imports `models` (floor 2)",
    ),
    "an arrow up that is written as a relative import": (
        "imports_go_down",
        {"burnish.data.a": "from ..optim import groups", "burnish.optim.groups": "x = 1"},
        "`data` (floor 2) imports `optim` (floor 3)",
    ),
    "an arrow sideways": (
        "imports_go_down",
        {"burnish.data.a": "from burnish.models.load import load", "burnish.models.load": "def load(): ..."},
        "`data` imports its neighbour `models` (`burnish.models.load`); move what both need to a lower floor",
    ),
    "an arrow to the command line": (
        "imports_go_down",
        {"burnish.report.page": "from burnish.cli import display", "burnish.cli.display": "x = 1"},
        "`report` (floor 5) imports `cli` (floor 7)",
    ),
    "an arrow to the root, which is above all": (
        "imports_go_down",
        {"burnish.train.a": "from burnish import run"},
        "imports the root package",
    ),
    "a circle of two": (
        "no_circles",
        {"burnish.core.a": "from burnish.core import b", "burnish.core.b": "from burnish.core.a import x"},
        "burnish.core.a -> burnish.core.b -> burnish.core.a",
    ),
    "a circle of three, one arrow hidden in a function": (
        "no_circles",
        {
            "burnish.core.a": "import burnish.core.b",
            "burnish.core.b": "def f():\n    from burnish.core.c import x",
            "burnish.core.c": "from .a import x",
        },
        "burnish.core.a -> burnish.core.b -> burnish.core.c -> burnish.core.a",
    ),
    "an import inside a function": (
        "no_lazy_imports",
        {"burnish.train.a": "def f():\n    import torch"},
        "src/burnish/train/a.py:2: `torch` is imported inside a function",
    ),
    "an own module dressed up as an optional extra": (
        "no_lazy_imports",
        {
            "burnish.train.a": "def f():\n  try:\n    import burnish.core.b\n  except ImportError:\n    pass",
            "burnish.core.b": "",
        },
        "src/burnish/train/a.py:3: `burnish.core.b` is imported inside a function",
    ),
    "a room that re-exports": (
        "only_the_root_reexports",
        {"burnish.core": "from burnish.core.a import x", "burnish.core.a": "x = 1"},
        "re-exports `burnish.core.a`",
    ),
    "a room without a floor": ("known_rooms", {"burnish.utils.a": "x = 1"}, "the room `utils` has no floor"),
    "an empty room": ("known_rooms", {"burnish.plan.a": '"""To come."""'}, "the room `plan` is empty"),
    "a long file": ("short_files", {"burnish.core.a": "x = 1\n" * 401}, "401 lines, 400 at most"),
    "a long function": (
        "short_functions",
        {"burnish.core.a": "def f():\n" + "    x = 1\n" * 70},
        "src/burnish/core/a.py:1: `f` has 71 lines, 70 at most",
    ),
    "a configuration that grew by inheritance": (
        "small_configs",
        {
            "burnish.core.a": "class AConfig(Config):\n" + "".join(f"    a{i}: int = 0\n" for i in range(9)),
            "burnish.core.b": "class BConfig(AConfig):\n" + "".join(f"    b{i}: int = 0\n" for i in range(7)),
        },
        "`BConfig` has 16 fields, 15 at most",
    ),
    "a ladder over names": (
        "no_ladders",
        {
            "burnish.core.a": "if m == 'w':\n    x = 1\n"
            + "".join(f"elif m == '{name}':\n    x = 2\n" for name in ("x", "y", "z"))
        },
        "src/burnish/core/a.py:1: 4 branches compare `m` with a name",
    ),
}


@pytest.mark.parametrize("fault", FORBIDDEN)
def test_the_rule_catches(fault: str) -> None:
    """A package of a few lines with exactly one fault: its rule names it once, with the place."""
    rule, files, expected = FORBIDDEN[fault]
    broken = list(RULES[rule](planted(files)))
    assert len(broken) == 1
    assert expected in broken[0]


ALLOWED: dict[str, dict[str, str]] = {
    "an arrow down": {"burnish.train.a": "from burnish.core.b import x", "burnish.core.b": "x = 1"},
    "an arrow within a room": {"burnish.core.a": "from . import b", "burnish.core.b": "x = 1"},
    "a lazy command": {"burnish.cli.a": "def f():\n    from burnish.api import run", "burnish.api": "def run(): ..."},
    "a lazy root": {"burnish": "def f():\n    import burnish.api", "burnish.api": "def run(): ..."},
    "an optional extra": {
        "burnish.train.a": "def f():\n    try:\n        import wandb\n    except ImportError:\n        pass",
    },
    "a ladder of three": {
        "burnish.core.a": "if m == 'x':\n    y = 1\nelif m == 'y':\n    y = 2\nelif m == 'z':\n    y = 3"
    },
    "a ladder over different things": {
        "burnish.core.a": "if a == 'x':\n    y = 1\n" + "".join(f"elif {n} == 'y':\n    y = 2\n" for n in "bcde")
    },
    "fifteen fields and a constant": {
        "burnish.core.a": "class AConfig(Config):\n    METHOD: ClassVar[str] = 'a'\n"
        + "".join(f"    a{i}: int = 0\n" for i in range(15))
    },
}


@pytest.mark.parametrize("case", ALLOWED)
def test_the_rules_allow(case: str) -> None:
    """What the house allows breaks no rule at all."""
    modules = planted(ALLOWED[case])
    broken = [line for rule in RULES.values() for line in rule(modules) if "is empty" not in line]
    assert not broken


def test_floors_are_those_of_the_design() -> None:
    """Imports go down: core is at the bottom, the command line on top, and each room has one floor."""
    assert FLOOR["core"] == 0
    assert FLOOR["cli"] == max(FLOOR.values())
    assert FLOOR["ops"] < FLOOR["models"] == FLOOR["data"] < FLOOR["adapters"] == FLOOR["checkpoint"] < FLOOR["train"]
