"""Damaged input by the thousand: every recipe, data file and adapter folder gives a result or a clear refusal.

``python -m tests.trust.fuzz --inputs 100000`` is the soak; the test runs a few hundred of each kind. An input is a
valid one with random damage, or random from the start. A result is fine, and so is a ``UserError`` that says what and
where; any other exception, and anything that takes longer than ten seconds, is a fault.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from burnish.adapters.attach import attach
from burnish.adapters.load import load
from burnish.adapters.lora import LoraConfig
from burnish.core.errors import UserError
from burnish.data.config import DataConfig
from burnish.data.prepare import prepare
from burnish.train.config import load_run
from tests.support.tiny import tiny, tiny_tokenizer

SECONDS = 10
TOKENS = [
    b"null", b"true", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'""', b"'", b'"', b"{", b"}", b"[", b"]", b":", b",",
    b"\n", b"\r", b"\t", b" ", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"&a ", b"*a", b"<<: ",
    b"!!python/name:os.system ", b"- ", b"? ", b"# ", b"%", b"|", b"../", b"{x}", b"{{ 7 }}", b"0x10", b"1_0",
    b"99999999999999999999", b"\\ud800",
]  # fmt: skip

RECIPE = {
    "name": "run",
    "model": {"path": "./model", "revision": "main"},
    "data": {
        "train": {"path": "rows.jsonl", "prompt": "{text}:", "completion": " {label}", "limit": 5},
        "split": {"validation": 2, "test": 0.25, "stratify": "label"},
        "render": {"max_length": 64},
    },
    "adapter": {"method": "lora", "rank": 4, "targets": ["q_proj", "re:v_"]},
    "train": {"batch_size": 8, "num_epochs": 2, "learning_rate": 1e-4, "warmup_ratio": 0.1},
    "evaluate": {"choices": ["a", "b"], "every_steps": 3},
}
ROWS = [{"prompt": f"ask {i}", "completion": f" say {i}"} for i in range(6)]
TALK = [
    {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]} for i in range(6)
]


def damaged(base: bytes) -> st.SearchStrategy[bytes]:
    """``base`` with up to six cuts, copies, insertions or flipped bytes, at random places."""
    place = st.integers(0, max(len(base), 1))
    edit = st.tuples(st.sampled_from(["cut", "copy", "put", "flip"]), place, place, st.sampled_from(TOKENS))
    return st.lists(edit, min_size=1, max_size=6).map(lambda edits: _apply(base, edits))


def _apply(base: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    data = base
    for kind, first, second, token in edits:
        low, high = sorted((min(first, len(data)), min(second, len(data), first + 40)))
        if kind == "cut":
            data = data[:low] + data[high:]
        elif kind == "copy":
            data = data[:high] + data[low:high] + data[high:]
        elif kind == "put":
            data = data[:low] + token + data[low:]
        elif data:
            at = min(low, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ (1 << (high % 8))]) + data[at + 1 :]
    return data


def plain_values() -> st.SearchStrategy[Any]:
    """Any value that YAML or JSON can hold."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    return st.recursive(leaves, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=4))


def recipes() -> st.SearchStrategy[bytes]:
    """Recipe files: damaged ones, random ones under known keys, random bytes."""
    keys = st.sampled_from([*RECIPE, "checkpoint", "early_stopping", "batches", "seed", "output", "trackers"])
    replaced = st.dictionaries(keys, plain_values(), max_size=3).map(lambda v: yaml.dump({**RECIPE, **v}).encode())
    return damaged(yaml.safe_dump(RECIPE).encode()) | replaced | st.binary(max_size=60)


def data_files() -> st.SearchStrategy[tuple[str, bytes]]:
    """A suffix and a file, of every kind that is read."""
    lines = "".join(json.dumps(row) + "\n" for row in [*ROWS, *TALK]).encode()
    table = b"prompt,completion\n" + b"".join(f'"ask, {i}",say {i}\n'.encode() for i in range(6))
    bases = {
        "jsonl": lines,
        "json": json.dumps(ROWS).encode(),
        "csv": table,
        "tsv": table.replace(b",", b"\t"),
        "txt": b"one line\nanother line\n\na paragraph\n" * 3,
        "parquet": _parquet(),
    }
    whole = [st.tuples(st.just(kind), damaged(base)) for kind, base in bases.items()]
    rows = st.lists(plain_values(), max_size=5)
    odd = rows.map(lambda v: ("jsonl", "\n".join(json.dumps(x) for x in v).encode("utf-8", "surrogatepass")))
    return st.one_of(*whole, odd, st.tuples(st.sampled_from(list(bases)), st.binary(max_size=80)))


@lru_cache(maxsize=1)
def _parquet() -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    return bytes(sink.getvalue())


def adapters() -> st.SearchStrategy[tuple[str, bytes]]:
    """The name of a file of an adapter folder, and what it now holds."""
    files = {p.name: p.read_bytes() for p in sorted(_adapter().iterdir())}
    strategies = [st.tuples(st.just(name), damaged(content)) for name, content in files.items()]
    odd = plain_values().map(lambda v: json.dumps(v).encode("utf-8", "surrogatepass"))
    return st.one_of(*strategies, st.tuples(st.sampled_from(list(files)), odd | st.binary(max_size=60)))


@lru_cache(maxsize=1)
def _adapter() -> Path:
    folder = Path(tempfile.mkdtemp())
    attach(tiny("llama"), LoraConfig(rank=2, targets="q_proj")).save(folder)
    return folder


class Checks:
    """Feeds inputs to Burnish and counts how they end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ends: Counter[str] = Counter()
        self.model = tiny("llama")
        self.tokenizer = tiny_tokenizer()
        self.names = [n for n, _ in self.model.named_modules()]

    def recipe(self, content: bytes) -> None:
        """Read a recipe file, with an override."""
        path = self.folder / "recipe.yaml"
        path.write_bytes(content)
        self._end("recipe", lambda: load_run(path, ["train.batch_size=4"]))

    def data(self, file: tuple[str, bytes]) -> None:
        """Read, split and render a data file."""
        path = self.folder / f"rows.{file[0]}"
        path.write_bytes(file[1])

        def work() -> None:
            config = DataConfig.model_validate({"train": str(path), "split": {"validation": 1}})
            prepare(config, self.tokenizer, "causal", 0)

        self._end("data", work)

    def adapter(self, file: tuple[str, bytes]) -> None:
        """Load an adapter folder onto a model, which is as before if that is refused."""
        folder = self.folder / "adapter"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(_adapter(), folder)
        (folder / file[0]).write_bytes(file[1])
        self._end("adapter", lambda: load(folder, self.model).detach_())
        assert [n for n, _ in self.model.named_modules()] == self.names, "the model is not as it was"

    def _end(self, kind: str, work: Callable[[], object]) -> None:
        said = "accepted"
        try:
            with at_most(SECONDS):
                work()
        except UserError as refusal:
            said = str(refusal)
        assert said and "\x1b" not in said, "a refusal says what is wrong"
        self.ends[f"{kind} {'accepted' if said == 'accepted' else 'refused'}"] += 1


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise where something hangs."""

    def hangs(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it took longer than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(inputs: int, start: int = 0) -> Counter[str]:
    """Feed so many inputs, a third of each kind; the first fault is raised with the smallest input that shows it."""
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(Path(folder))
        kinds: list[tuple[Any, st.SearchStrategy[Any]]] = [
            (checks.recipe, recipes()),
            (checks.data, data_files()),
            (checks.adapter, adapters()),
        ]
        for check, strategy in kinds:
            options = settings(
                max_examples=-(-inputs // 3), deadline=None, database=None, suppress_health_check=list(HealthCheck)
            )
            seed(start)(options(given(strategy)(check)))()
        return checks.ends


def main() -> None:
    """The soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    ends = fuzz(arguments.inputs, arguments.seed)
    print(
        json.dumps({**dict(sorted(ends.items())), "inputs": ends.total(), "seconds": round(time.monotonic() - began)})
    )


if __name__ == "__main__":
    sys.exit(main())
