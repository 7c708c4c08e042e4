"""Token tables of large data sets, kept on the disk, so that the next run of the same recipe starts at once.

The folder is named by a hash of all that decides about tokens, masks and what is said about them. It appears whole or
not at all, and every file of it is held against its checksum before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from burnish.core.files import make_readable, sha256
from burnish.core.findings import Finding
from burnish.data.config import DataConfig
from burnish.data.example import Example
from burnish.data.kept import Codec, JsonRows, home
from burnish.data.streams import SPLITS, Opened
from burnish.data.table import TokenTable
from burnish.data.writer import COLUMNS, assembled, mapped

KEPT = 8
"""Prepared data sets that are kept; the one that was used longest ago goes first."""
_RECORD, _CONTENT = "burnish.json", "prepared.json"
DAMAGES = (OSError, ValueError, KeyError, TypeError)
"""What opening a damaged data set raises."""
_HELD: dict[str, tuple[bool, bool]] = {}
_LIBRARIES = ("transformers", "tokenizers", "datasets", "pyarrow", "numpy")
_ABANDONED = 86400.0
EXAMPLE = "example"
"""In the names of their files."""
EXAMPLES: Codec[Example] = Codec(Example.to_json, Example.of_json, exact=True)
"""How held-out examples lie on the disk. One that would come back as another is held in memory, and nothing is kept."""


@dataclass(frozen=True)
class Stored:
    """What a preparation came to.

    Attributes:
        tables: The tables of all splits, each with the numbers of its rows.
        examples: The examples of validation and test, and those that augmentation has added.
        findings: What there was to say.
        summary: All of it as JSON.
        labels: The names of the classes, of a classification.
    """

    tables: Mapping[str, tuple[TokenTable, NDArray[np.uint32]]]
    examples: Mapping[str, Sequence[Example]]
    findings: Sequence[Finding]
    summary: dict[str, Any]
    labels: tuple[str, ...] = ()


def key_of(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    seed: int,
    opened: Opened,
    makers: Sequence[Any] = (),
) -> str | None:
    """A hash of all that tokens, masks, splits and findings follow from.

    These are: the files' names and bytes, the recipe's `data:`, the seed, the classes that a classification asks for,
    the tokenizer with its chat template, what makes new rows (``makers``), the code of this room, and the libraries'
    versions.

    Returns:
        None where that cannot be known: a tokenizer without a serialised form, a data set without a fingerprint, or a
        source of which only the first rows are read.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or any(source.config.limit is not None for _, source in opened.sources):
        return None
    files = [(split, part.name, part.sha256) for split, source in opened.sources for part in source.parts]
    if any(digest is None for _, _, digest in files):
        return None
    told = ("chat_template", "special_tokens_map", "clean_up_tokenization_spaces", "model_input_names")
    parts = [
        files,
        config.model_dump(mode="json"),
        [kind, seed, opened.task.asked, *makers],
        [type(tokenizer).__name__, backend.to_str(), *(getattr(tokenizer, name, None) for name in told)],
        [_code(), *(version(name) for name in _LIBRARIES)],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@cache
def _code() -> str:
    """A hash of the code that makes rows into tokens."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def find(key: str) -> tuple[Stored | None, list[Finding]]:
    """A prepared data set that was kept; None without one, or where it is damaged, which is said."""
    folder = home() / key
    if not (folder / _RECORD).is_file():
        return None, []
    held, made_now = _HELD.pop(key, (False, False))
    try:
        if not held:
            check(folder, list(recorded(folder)))
        stored = _read(folder)
        os.utime(folder / _RECORD)
    except DAMAGES as error:
        return None, [damaged(folder, error)]
    if made_now:
        return stored, []
    note = Finding(
        "note",
        "data.from-cache",
        "the rows were prepared before, from the same files and settings, and are taken from there",
        where=str(folder),
        fix="Remove the folder to prepare them again.",
    )
    return stored, [note]


def damaged(folder: Path, error: Exception) -> Finding:
    """What is said of a prepared data set that is not what was kept."""
    return Finding(
        "warning",
        "data.cache-damaged",
        f"the rows that were kept are damaged ({error}); they are prepared again",
        where=str(folder),
    )


def recorded(folder: Path) -> dict[str, str]:
    """The checksums of the files of a prepared data set; none where there is no such set."""
    if not (folder / _RECORD).is_file():
        return {}
    found: dict[str, str] = json.loads((folder / _RECORD).read_text(encoding="utf-8"))["sha256"]
    return found


def check(folder: Path, names: Sequence[str]) -> None:
    """Hold some files of a prepared data set against their checksums.

    Raises:
        ValueError: One has another.
        OSError: One cannot be read.
    """
    record = recorded(folder)
    with ThreadPoolExecutor(2) as pool:
        for name, digest in zip(names, pool.map(lambda name: sha256(folder / name), names), strict=True):
            if digest != record[name]:
                raise ValueError(f"{name} has another checksum")


def hold(key: str, *, made_now: bool) -> None:
    """Take note that the files of a prepared data set were held against their checksums, for the next to ``find`` it.

    Args:
        key: Its key.
        made_now: It was prepared just now, so that nothing is said of where it comes from.
    """
    _HELD[key] = (True, made_now)


def tables_of(
    folder: Path, lengths: Mapping[str, Mapping[str, int]], files: Sequence[str]
) -> dict[str, tuple[TokenTable, NDArray[np.uint32]]]:
    """The tables that lie in a folder, by split."""
    tables = {}
    for split in SPLITS:
        arrays = {
            name: mapped(folder / f"{split}.{name}", kind, lengths[split][name]) for name, kind in COLUMNS.items()
        }
        tables[split] = assembled(arrays, tuple(files))
    return tables


def lengths_of(tables: Mapping[str, tuple[TokenTable, NDArray[np.uint32]]]) -> dict[str, dict[str, int]]:
    """What ``tables_of`` needs to know of tables."""
    return {
        split: {name: _length(table, numbers, name) for name in COLUMNS} for split, (table, numbers) in tables.items()
    }


def _read(folder: Path) -> Stored:
    content = json.loads((folder / _CONTENT).read_text(encoding="utf-8"))
    tables = tables_of(folder, content["lengths"], content["files"])
    examples: dict[str, Sequence[Example]] = {
        split: JsonRows.open(folder, f"{split}.{EXAMPLE}", lengths, EXAMPLES)
        for split, lengths in content["examples"].items()
    }
    if content["new"] is not None:
        examples["augmented"] = [Example.of_json(values) for values in content["new"]]
    return Stored(
        tables, examples, [Finding(**f) for f in content["findings"]], content["summary"], tuple(content["labels"])
    )


def keep(stored: Stored, partial: Path, key: str) -> bool:
    """Keep a prepared data set whose tables lie in ``partial``; False if its examples cannot be written as JSON.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    written = {split: rows for split, rows in stored.examples.items() if isinstance(rows, JsonRows)}
    new = stored.examples.get("augmented")
    content = {
        "files": stored.tables["train"][0].ids.files,
        "lengths": lengths_of(stored.tables),
        "examples": {split: rows.lengths for split, rows in written.items()},
        "new": None if new is None else [example.to_json() for example in new],
        "findings": [finding.to_json() for finding in stored.findings],
        "summary": stored.summary,
        "labels": stored.labels,
    }
    if any(rows.held for rows in written.values()):
        return False
    try:
        text = json.dumps(content)  # half characters, which file names can hold, are escaped
    except (TypeError, ValueError):
        return False
    if new is not None and [Example.of_json(values) for values in json.loads(text)["new"]] != list(new):
        return False
    (partial / _CONTENT).write_text(text, encoding="utf-8")
    record = {"sha256": {path.name: sha256(path) for path in sorted(partial.iterdir())}}
    with (partial / _RECORD).open("w", encoding="utf-8") as file:
        file.write(json.dumps(record, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    make_readable(partial)
    folder = home() / key
    shutil.rmtree(folder, ignore_errors=True)  # damaged, or written by another process meanwhile
    partial.rename(folder)
    _tidy()
    return True


def _length(table: TokenTable, numbers: NDArray[np.uint32], name: str) -> int:
    own = {"file": table.ids.file, "line": table.ids.line, "number": numbers}
    return len(own[name] if name in own else getattr(table, name))


def _tidy() -> None:
    """Remove what was used longest ago, and what runs that were killed have left."""
    with suppress(OSError):
        whole = [p for p in home().iterdir() if (p / _RECORD).is_file() and not p.name.startswith(".")]
        old = sorted(whole, key=lambda p: (p / _RECORD).stat().st_mtime)[:-KEPT]
        left = [p for p in home().glob(".*") if time.time() - p.stat().st_mtime > _ABANDONED]
        for path in old + left:
            shutil.rmtree(path, ignore_errors=True)
