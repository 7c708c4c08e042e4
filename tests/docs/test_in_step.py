"""The documentation says what the code does: generated pages are up to date, and no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools.make_docs import ROOT, generated

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def test_generated_files_are_up_to_date() -> None:
    """`make docs` would change nothing."""
    stale = [
        str(path)
        for path, text in generated().items()
        if not (ROOT / path).is_file() or (ROOT / path).read_text() != text
    ]
    assert not stale, "run `make docs`"


def test_no_generated_page_is_left_over() -> None:
    expected = {ROOT / path for path in generated()}
    for folder in ("docs/cli", "docs/recipe"):
        assert set((ROOT / folder).glob("*.md")) <= expected


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = [
        link for link in LINK.findall(page.read_text(encoding="utf-8")) if not link.startswith(("http", "#", "mailto:"))
    ]
    dead = [link for link in links if not (page.parent / link.partition("#")[0]).exists()]
    assert not dead


def test_every_guarantee_names_a_test() -> None:
    """`docs/guarantees.md` gives at least one test in each row, and each of them exists."""
    text = (ROOT / "docs/guarantees.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "held by" not in line]
    assert len(rows) > 40 and all("`tests/" in row for row in rows)
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()]
    assert not missing


def test_every_setting_has_a_meaning() -> None:
    """A table row whose last cell is empty is a field without a docstring."""
    for path, text in generated().items():
        if path.parts[1:2] == ("recipe",):
            empty = [line for line in text.splitlines() if line.startswith("| `") and line.rstrip().endswith("|  |")]
            assert not empty, path
