"""Small sources of every kind, and what their preparation gave before rows were streamed.

`frozen_rows.json` was written by `python -m tests.data.frozen` with the code that still held every row in memory. It is
not to be written again unless the rendering itself is meant to change.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from burnish.data.config import DataConfig
from burnish.data.prepare import Prepared, prepare
from burnish.data.streams import SPLITS
from tests.data import chats
from tests.data.chats import talk, write_jsonl
from tests.support.tiny import tiny_tokenizer

FILE = Path(__file__).with_name("frozen_rows.json")
SOURCE = ("format", "columns", "rows", "dropped_rows", "bad_bytes", "bad_byte_rows")
WORDS = ("one", "two", "three", "wonderful", "terrible", "news", "day", "cat", "ü", "中", "the", "mat")


def _text(draw: random.Random, most: int = 12) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, most)))


def _pairs(count: int, seed: int = 0, most: int = 12) -> list[dict[str, Any]]:
    """Rows with a label and an author; some are copies, some ask the same and answer otherwise."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for i in range(count):
        label = draw.choice(("good", "bad", "odd"))
        author = draw.choice(("ann", "bob", "cem", "dee", "eva", None))
        rows.append({"prompt": f"{_text(draw, most)} {i}\nLabel:", "completion": f" {label}", "author": author})
        if i % 17 == 3:
            rows.append(dict(rows[draw.randrange(len(rows))]))
        if i % 23 == 5:
            rows.append({**rows[draw.randrange(len(rows))], "completion": " another"})
    return rows


def _chat(count: int, seed: int = 0) -> list[list[dict[str, str]]]:
    draw = random.Random(seed)
    return [talk(*(_text(draw) for _ in range(2 * draw.randint(1, 3)))) for _ in range(count)]


def _jsonl(folder: Path) -> dict[str, Any]:
    return {"train": str(write_jsonl(folder / "rows.jsonl", _pairs(300)))}


def _stratified_csv(folder: Path) -> dict[str, Any]:
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in _pairs(200, 1):
            writer.writerow([row["prompt"].replace(" ", "\n", 1), row["completion"].strip()])
    return {
        "train": {"path": str(folder / "rows.csv"), "prompt": "{text}\n=>", "completion": " {label}"},
        "split": {"validation": 0.1, "test": 33, "stratify": "label"},
    }


def _grouped(folder: Path) -> dict[str, Any]:
    rows = [{**r, "author": f"{r['author']}{i % 9}" if r["author"] else None} for i, r in enumerate(_pairs(250, 2))]
    return {
        "train": str(write_jsonl(folder / "rows.jsonl", rows)),
        "split": {"validation": 20, "test": 0.1, "group": "author", "seed": 5},
    }


def _odd_strata(folder: Path) -> dict[str, Any]:
    return {
        "train": str(write_jsonl(folder / "rows.jsonl", _pairs(120, 3))),
        "split": {"validation": 25, "test": 0, "stratify": "author"},
    }


def _messages(folder: Path) -> dict[str, Any]:
    rows = [{"messages": m} for m in _chat(150, 4)]
    return {"train": str(write_jsonl(folder / "rows.jsonl", rows)), "render": {"train_on": "last", "max_length": 48}}


def _sharegpt(folder: Path) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt"}
    rows = [{"conversations": [{"from": names[t["role"]], "value": t["content"]} for t in m]} for m in _chat(90, 5)]
    (folder / "rows.json").write_text(json.dumps(rows, indent=1))
    return {"train": {"path": str(folder / "rows.json"), "system": "Be kind."}, "split": {"validation": 9, "test": 9}}


def _alpaca(folder: Path) -> dict[str, Any]:
    draw = random.Random(6)
    rows = [
        {"instruction": _text(draw, 40), "input": _text(draw) if i % 2 else "", "output": _text(draw)}
        for i in range(140)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet", row_group_size=33)
    options = {"max_length": 210, "on_too_long": "drop", "max_dropped_share": 1.0}
    return {"train": str(folder / "rows.parquet"), "render": options}


def _texts(folder: Path) -> dict[str, Any]:
    draw = random.Random(7)
    for name in ("b", "a"):
        text = "\n".join(_text(draw) + ("\n" if draw.random() < 0.4 else "") for _ in range(120))
        (folder / f"{name}.txt").write_bytes(text.replace("\n", "\r\n").encode() if name == "a" else text.encode())
    return {"train": {"path": str(folder / "*.txt"), "txt_rows": "paragraph"}, "render": {"max_length": 40}}


def _datasets(folder: Path) -> dict[str, Any]:
    parts = {"train": datasets.Dataset.from_list(_pairs(160, 8)), "test": datasets.Dataset.from_list(_pairs(30, 9))}
    datasets.DatasetDict(parts).save_to_disk(str(folder / "set"))
    return {"train": str(folder / "set"), "test": {"path": str(folder / "set"), "split": "test"}, "duplicates": "keep"}


def _chosen(folder: Path) -> dict[str, Any]:
    return {**_jsonl(folder), "train_rows": 77, "render": {"train_on": "all", "max_length": 24}}


def _many(folder: Path) -> dict[str, Any]:
    rows = _pairs(130, 10)
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in _pairs(60, 11))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    (folder / "c.jsonl").write_bytes("".join(json.dumps(r) + "\n" for r in _pairs(40, 12)).encode("utf-16"))
    (folder / "d.csv").write_bytes(b"prompt;completion\n" + b"".join(b"q%d \xff\xc3;a%d\n" % (i, i) for i in range(40)))
    return {
        "train": [
            str(write_jsonl(folder / "a.jsonl", rows)),
            str(folder / "b.jsonl.gz"),
            {"path": str(folder / "c.jsonl"), "limit": 25},
            {"path": str(folder / "d.csv"), "on_bad_bytes": "replace"},
        ],
        "validation": str(write_jsonl(folder / "held.jsonl", [*rows[5:15], *_pairs(20, 13)])),
        "test": str(write_jsonl(folder / "test.jsonl", [*rows[12:30], *_pairs(20, 14)])),
    }


def _leaks_kept(folder: Path) -> dict[str, Any]:
    return {**_many(folder), "on_leak": "warn", "duplicates": "keep"}


def _without_targets(folder: Path) -> dict[str, Any]:
    rows = [{**r, "completion": "" if i % 21 == 2 else r["completion"]} for i, r in enumerate(_pairs(200, 15))]
    return {"train": str(write_jsonl(folder / "rows.jsonl", rows)), "render": {"max_length": 30}}


def _tsv(folder: Path) -> dict[str, Any]:
    lines = [f"{r['prompt']}\t{r['completion']}".replace("\n", " ") for r in _pairs(90, 16, 30)]
    (folder / "rows.tsv").write_text("prompt\tcompletion\n" + "\n".join(lines))
    return {"train": str(folder / "rows.tsv"), "render": {"max_length": 40}}


Case = tuple[Callable[[Path], dict[str, Any]], Callable[[], Any], str, int]
CASES: dict[str, Case] = {
    "jsonl": (_jsonl, tiny_tokenizer, "causal", 0),
    "jsonl-seed": (_jsonl, tiny_tokenizer, "causal", 7),
    "csv-stratified": (_stratified_csv, tiny_tokenizer, "causal", 1),
    "grouped": (_grouped, tiny_tokenizer, "causal", 2),
    "odd-strata": (_odd_strata, tiny_tokenizer, "causal", 3),
    "messages": (_messages, lambda: chats.tokenizer(chats.CHATML), "causal", 0),
    "messages-llama": (_messages, lambda: chats.tokenizer(chats.LLAMA3, bos=True), "causal", 0),
    "sharegpt": (_sharegpt, lambda: chats.tokenizer(chats.MARKED_SHORT), "causal", 0),
    "alpaca": (_alpaca, tiny_tokenizer, "causal", 0),
    "texts": (_texts, lambda: chats.tokenizer(kind="words", bos=True), "causal", 0),
    "words": (_jsonl, lambda: chats.tokenizer(kind="words", bos=True), "causal", 0),
    "datasets": (_datasets, tiny_tokenizer, "causal", 4),
    "train-rows": (_chosen, tiny_tokenizer, "causal", 5),
    "many": (_many, tiny_tokenizer, "causal", 6),
    "leaks-kept": (_leaks_kept, tiny_tokenizer, "causal", 6),
    "without-targets": (_without_targets, tiny_tokenizer, "causal", 0),
    "pairs": (_tsv, lambda: chats.tokenizer(eos_first=True), "seq2seq", 0),
}


def prepared(name: str, folder: Path, **options: Any) -> Prepared:
    """One case, prepared in an empty folder."""
    source, tokenizer, kind, seed = CASES[name]
    return prepare(DataConfig.model_validate(source(folder)), tokenizer(), kind, seed, **options)  # type: ignore[arg-type]


def record(result: Prepared, folder: Path) -> dict[str, Any]:
    """What has to stay as it was; no path and no version is in it."""
    summary = result.summary
    kept = ("steps", "duplicates", "leaks", "n_dropped")
    return {
        "splits": {
            name: {
                **{k: v for k, v in summary["splits"][name].items() if k != "shown"},
                "shown": _digest(summary["splits"][name]["shown"]),
                "ids": _digest(list(result.table(name).ids)),
                "prompts": _digest([result.table(name).prompt(i).tolist() for i in range(len(result.table(name)))]),
                "examples": _digest([[e.id, e.key, e.prompt_key] for e in result.examples[name]]),
            }
            for name in SPLITS
        },
        "sources": [[s[k] for k in SOURCE] for s in summary["sources"]],
        **{k: summary[k] for k in kept},
        "dropped": _digest(summary["dropped"]),
        "findings": [
            [f.severity, f.code, f.what.replace(str(folder), "FOLDER"), _digest(dict(f.evidence))]
            for f in result.findings
        ],
    }  # fmt: skip


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def main() -> None:
    """Write the file anew."""
    found = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = record(prepared(name, Path(folder)), Path(folder))
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(found)} cases\n")


if __name__ == "__main__":
    main()
