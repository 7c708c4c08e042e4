"""The retention set as texts and questions: the one that comes with the package, and files of one's own."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.core.errors import UserError
from burnish.core.paths import resolve_path
from burnish.evaluate.config import GENERAL, RetentionConfig

SHIPPED = Path(__file__).with_name("general.jsonl")
FORMS = '{"text": …, "domain": …} or {"question": …, "choices": […], "answer": …, "suite": …}'


@dataclass(frozen=True)
class Passage:
    """A text of a domain, whose every token the model predicts."""

    domain: str
    text: str


@dataclass(frozen=True)
class Item:
    """A question with possible continuations, of which the model's likelihood chooses one.

    Attributes:
        suite: What it belongs to.
        question: What stands before every choice, to the letter.
        choices: The continuations, with the white space before them.
        answer: Number of the right one.
    """

    suite: str
    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class RetentionSet:
    """Everything that is scored.

    Attributes:
        passages: The texts; those of one domain lie together.
        items: The questions; those of one suite lie together.
        sources: Each file with its SHA-256.
    """

    passages: tuple[Passage, ...]
    items: tuple[Item, ...]
    sources: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of all texts and questions, in hexadecimal."""
        parts = [[p.domain, p.text] for p in self.passages]
        asked = [[i.suite, i.question, list(i.choices), i.answer] for i in self.items]
        return hashlib.sha256(json.dumps([parts, asked]).encode()).hexdigest()


def read_set(config: RetentionConfig) -> RetentionSet:
    """The texts and questions that a recipe names, at most ``config.rows`` of each domain and suite.

    Raises:
        UserError: A file is missing, or a row is neither a text nor a question.
    """
    found: list[Passage | Item] = []
    sources = []
    for name in config.sources:
        path = SHIPPED if name == GENERAL else resolve_path(name)
        content = _read(path)
        found += _rows(content, path)
        sources.append((name, hashlib.sha256(content).hexdigest()))
    if config.on and not found:
        raise UserError(
            "the retention set holds no rows", where=", ".join(config.sources), fix=f"write lines such as {FORMS}"
        )
    passages = _first([p for p in found if isinstance(p, Passage)], config.rows, lambda p: p.domain)
    items = _first([i for i in found if isinstance(i, Item)], config.rows, lambda i: i.suite)
    return RetentionSet(tuple(passages), tuple(items), tuple(sources))


def _first(rows: Sequence[Any], most: int, part: Any) -> Iterable[Any]:
    """The first rows of every part, part by part in the order in which they first come."""
    counts: Counter[str] = Counter()
    kept: dict[str, list[Any]] = {}
    for row in rows:
        counts[part(row)] += 1
        if counts[part(row)] <= most:
            kept.setdefault(part(row), []).append(row)
    return [row for group in kept.values() for row in group]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        what = f"the retention set cannot be read: {error.strerror}"
        raise UserError(what, where=str(path), fix="name a JSONL file") from None


def _rows(content: bytes, path: Path) -> list[Passage | Item]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError("the retention set is not UTF-8", where=str(path), fix="save it as UTF-8") from None
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError:
            raise UserError("a line of the retention set is no JSON", where=where, fix=f"write {FORMS}") from None
        found.append(_row(row, path.stem, where))
    return found


def _row(row: Any, stem: str, where: str) -> Passage | Item:
    if isinstance(row, Mapping) and isinstance(row.get("text"), str) and row["text"].strip():
        return Passage(str(row.get("domain") or stem), row["text"])
    if isinstance(row, Mapping) and isinstance(row.get("question"), str) and isinstance(row.get("choices"), list):
        return _item(row, stem, where)
    raise UserError("a row of the retention set is neither a text nor a question", where=where, fix=f"write {FORMS}")


def _item(row: Mapping[str, Any], stem: str, where: str) -> Item:
    choices = [str(choice) for choice in row["choices"]]
    answer = row.get("answer")
    place = choices.index(answer) if isinstance(answer, str) and answer in choices else answer
    if len(set(choices)) < max(2, len(choices)) or not all(choices):
        fix = "give two or more, all different and none empty"
        raise UserError("the choices of a question cannot be told apart", where=where, fix=fix)
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(choices):
        fix = "write the choice itself, or its number from 0"
        raise UserError("the answer of a question is none of its choices", where=where, fix=fix)
    return Item(str(row.get("suite") or stem), row["question"], tuple(choices), place)
