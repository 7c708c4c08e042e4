"""Where rows come from: a file, a folder, a pattern, a `datasets` folder, or a data set of the hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from burnish.core.errors import UserError
from burnish.core.paths import PACKAGE_PREFIX, resolve_path
from burnish.data.config import SourceConfig
from burnish.data.digests import digest
from burnish.data.readers import BATCH, READERS, Seen, kind_of, read_rows
from burnish.data.rows import Read, ReadFile, Row

LIBRARY = "datasets"
"""Reads its own folders and the hub's; loaded when it does, for it takes most of a second."""
_PATTERN = re.compile(r"[*?\[]")
_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_SPLIT_NAMES = ("train", "validation", "valid", "val", "dev", "test", "eval")


@dataclass(frozen=True)
class DataFile:
    """A file that rows are read from."""

    path: Path
    source: SourceConfig

    @property
    def name(self) -> str:
        """What rows call it."""
        return str(self.path)

    @cached_property
    def sha256(self) -> str:
        """The hash of its bytes on the disk, which are read only where it is not known."""
        with _readable(self.name):
            return digest(self.path)

    def stamp(self) -> tuple[int, int]:
        """Size and time of the last change."""
        with _readable(self.name):
            status = self.path.stat()
        return status.st_size, status.st_mtime_ns

    def rows(self, seen: Seen) -> Iterator[Row]:
        """Its rows, from the disk."""
        return read_rows(self.path, self.source, seen)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"the file cannot be read: {error.strerror or error}", where=name) from error


@dataclass(frozen=True)
class DataSet:
    """A data set of the `datasets` library; its tables are mapped into memory, not read."""

    data: Any
    name: str

    @property
    def sha256(self) -> str | None:
        """The library's own hash of the table and of every step that made it."""
        fingerprint = getattr(self.data, "_fingerprint", None)
        return f"fingerprint:{fingerprint}" if fingerprint else None

    def stamp(self) -> tuple[int, int]:
        """It does not change: the files are held open."""
        return len(self.data), 0

    def rows(self, seen: Seen) -> Iterator[Row]:
        """Its rows."""
        batches = self.data.with_format("arrow").iter(BATCH)
        values = (value for batch in batches for value in batch.to_pylist())
        return (Row(value, self.name, number) for number, value in enumerate(values, 1))


@dataclass(frozen=True)
class OpenSource:
    """A source whose files have been found. Nothing of it is held; every pass reads it again.

    Attributes:
        config: What the recipe says.
        parts: Its files, in order.
        notes: What the user should know.
    """

    config: SourceConfig
    parts: Sequence[DataFile | DataSet]
    notes: Sequence[str] = ()

    def rows(self) -> Iterator[Row]:
        """Its rows in order. What is wrong with some of them was said by ``scan``."""
        return islice((row for part in self.parts for row in part.rows(Seen())), self.config.limit)

    def scan(self) -> Read:
        """The first pass: count the rows, collect their columns, and find those that cannot be read.

        Raises:
            UserError: A file cannot be read, or there are no rows.
        """
        limit, read = self.config.limit, Read()
        for part in self.parts:
            read.extend(scan_part(part, None if limit is None else limit - read.rows))
            if limit is not None and read.rows >= limit:
                break
        return self.scanned([read])

    def scanned(self, reads: Sequence[Read]) -> Read:
        """What was found in all files, in their order.

        Raises:
            UserError: There are no rows.
        """
        whole = Read(notes=list(self.notes))
        for read in reads:
            whole.extend(read)
        if not whole.rows and not whole.bad.count:
            fix = "name a source with at least one row"
            raise UserError("the source holds no rows", where=self.config.path, fix=fix)
        return whole


def scan_part(part: DataFile | DataSet, most: int | None = None) -> Read:
    """Read one file to its end.

    Args:
        part: The file.
        most: Rows that count.

    Raises:
        UserError: It cannot be read.
    """
    read, seen, count = Read(), Seen(), 0
    for count, row in enumerate(part.rows(seen), 1):  # noqa: B007  # the count is used behind the loop
        if most is None or read.rows < most:
            read.first = read.first if read.rows else row.fields
            read.rows += 1
            if not row.fields.keys() <= read.columns.keys():
                read.columns |= dict.fromkeys(row.fields)
    bad = seen.undecodable
    read.files.append(ReadFile(part.name, part.sha256, count, bad.sequences, bad.rows, tuple(bad.lines)))
    read.bad.extend(seen.bad)
    read.notes += seen.notes
    return read


def open_source(source: SourceConfig, base: Path | None = None) -> OpenSource:
    """Find the files of a source.

    Args:
        source: What the recipe says.
        base: Folder that relative paths start at; the working folder if None.

    Raises:
        UserError: Nothing is there, or no reader knows it.
    """
    location = _locate(source, base)
    if location is None:
        return _open_hub(source)
    if isinstance(location, list):
        return _open_files(location, source)
    if location.is_dir():
        return _open_folder(location, source)
    return _open_files([location], source, single=True)


def _locate(source: SourceConfig, base: Path | None) -> Path | list[Path] | None:
    """The path, the files of a pattern, or None for a name of the hub."""
    text = source.path
    if _PATTERN.search(text) and not _is_there(text, base):
        return _glob(text, base)
    if text.startswith(PACKAGE_PREFIX) or _is_there(text, base) or not _looks_like_hub(text):
        return resolve_path(text, base)
    return None


def _is_there(text: str, base: Path | None) -> bool:
    try:
        resolve_path(text, base)
    except UserError:
        return False
    return True


def _looks_like_hub(text: str) -> bool:
    return bool(_HUB_NAME.fullmatch(text)) and not kind_of(Path(text)) and not text.startswith((".", "~"))


def _glob(text: str, base: Path | None) -> list[Path]:
    parts = text.split("/")
    first = next(i for i, part in enumerate(parts) if _PATTERN.search(part))
    root = "/".join(parts[:first])
    if text.startswith(PACKAGE_PREFIX) and first < 2:
        root += "/."
    if not root:
        root = "/" if text.startswith("/") else "."
    rest = "/".join(parts[first:])
    if ".." in parts[first:]:
        raise UserError(f"`{text}` leads upwards behind a pattern", where=text, fix="put `..` before the first `*`")
    files = sorted(p for p in resolve_path(root, base).glob(rest) if p.is_file())
    if not files:
        raise UserError(f"no file matches `{text}`", where=str(resolve_path(root, base)), fix="check the pattern")
    return files


def _open_folder(folder: Path, source: SourceConfig) -> OpenSource:
    if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
        return _open_datasets_folder(folder, source)
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and kind_of(p) and not _hidden(p, folder)]
    tables = [p for p in files if kind_of(p) != "txt"]  # a README.txt beside tables is no data
    files = tables or files
    if not files:
        suffixes = ", ".join(f".{s}" for s in READERS)
        raise UserError("the folder holds no data files", where=str(folder), fix=f"known suffixes: {suffixes}")
    kinds = sorted({kind_of(p) for p in files})
    if len(kinds) > 1:
        fix = f"name one kind with a pattern, such as `{source.path.rstrip('/')}/*.{kinds[0]}`"
        raise UserError(f"the folder holds files of several kinds: {', '.join(kinds)}", where=str(folder), fix=fix)
    named = _by_split(files, folder)
    if not named and source.split is None:
        return _open_files(files, source)
    split, notes = _choose_split(source, named, str(folder))
    return replace(_open_files(named[split], source), notes=tuple(notes))


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _by_split(files: list[Path], folder: Path) -> dict[str, list[Path]]:
    """Files by the split that their name or first folder states (`train.jsonl`, `test-00001.parquet`, `train/…`)."""
    named: dict[str, list[Path]] = {}
    for path in files:
        head = path.relative_to(folder).parts[0]
        word = re.split(r"[-_.]", head)[0].lower()
        if word in _SPLIT_NAMES:
            named.setdefault(word, []).append(path)
    return named


def _choose_split(source: SourceConfig, splits: Iterable[str], where: str) -> tuple[str, list[str]]:
    """The split to read, and a note if the recipe does not name it."""
    names = list(splits)
    listed = ", ".join(f"`{n}`" for n in names) or "none"
    if source.split is not None:
        if source.split not in names:
            raise UserError(f"there is no split `{source.split}`", where=where, fix=f"splits here: {listed}")
        return source.split, []
    if len(names) == 1:
        return names[0], []
    if "train" in names:
        return "train", [f"{where} has the splits {listed}; `train` is read"]
    raise UserError("the source has several splits", where=where, fix=f"set `split` to one of {listed}")


def _open_files(files: list[Path], source: SourceConfig, *, single: bool = False) -> OpenSource:
    for path in files:
        if not kind_of(path):
            suffixes = ", ".join(f".{s}" for s in READERS)
            raise UserError(f"no reader for `{path.name}`", where=str(path), fix=f"known suffixes: {suffixes}")
    read_as = source
    if source.txt_rows == "auto":
        read_as = source.model_copy(update={"txt_rows": "line" if single else "file"})
    return OpenSource(source, [DataFile(path, read_as) for path in files])


def _open_datasets_folder(folder: Path, source: SourceConfig) -> OpenSource:
    datasets = import_module(LIBRARY)
    try:
        data = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the data set folder cannot be read: {error}", where=str(folder), fix="save it again"
        ) from None
    return _from_datasets(data, source, str(folder), None)


def _open_hub(source: SourceConfig) -> OpenSource:
    datasets = import_module(LIBRARY)
    try:
        data = datasets.load_dataset(source.path, name=source.subset, split=source.split, revision=source.revision)
    except Exception as error:  # the library raises many kinds; each is a refusal with the same cure
        cache = datasets.config.HF_DATASETS_CACHE
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"`{source.path}` is no file or folder here, and no data set of the hub could be loaded: {reason}",
            where=f"looked for a path in the recipe's folder, then on the hub and in its cache {cache}",
            fix="check the spelling, `subset` and `split`; without a network, name a local file",
        ) from None
    return _from_datasets(data, source, source.path, source.split)


def _from_datasets(data: Any, source: SourceConfig, name: str, split: str | None) -> OpenSource:
    notes: list[str] = []
    if isinstance(data, dict):
        split, notes = _choose_split(source, data, name)
        data = data[split]
    if source.limit is not None:
        data = data.select(range(min(source.limit, len(data))))
    shown = f"{name}[{split}]" if split else name
    return OpenSource(source, [DataSet(data, shown)], notes)
