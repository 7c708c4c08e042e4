"""Scoring the held-out rows of a run with a head, beside ``transformers.Trainer.predict``: in turn, in own processes.

    python bench/predict.py runs/sentiment/minilm-full                 # its test rows
    python bench/predict.py runs/sentiment/minilm-full --split train --rows 20000 --rounds 2
    python bench/predict.py runs/sentiment/minilm-full --sides burnish,trainer-32-bf16

Every side scores the same rows with the same encoder under a head of as many classes; `transformers` takes the encoder
that the run began with and a new head, which costs the same. Timed is one pass from token ids to the probabilities of
every row; reading, loading and tokenising is not. ``with metrics`` is Burnish's whole evaluation: every metric with its
bootstrap interval, calibration and confusion too. 64 rows are scored before, so that nobody pays for a warm-up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

SIDES = ("burnish", "trainer", "trainer-32", "trainer-32-bf16")
"""In the order of a round: `Trainer` with its default batch of 8 rows, with 32, and with 32 in bf16."""
WARM = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=None, help="the first so many rows only")
    parser.add_argument("--sides", default=",".join(SIDES), help=f"of {', '.join(SIDES)}")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(one_side(arguments.side, arguments)))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in arguments.sides.split(",")}
    for _ in range(arguments.rounds):
        for side in found:
            found[side].append(in_process(side, arguments))
    print(shown(found))


def in_process(side: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One side in a process of its own."""
    command = [sys.executable, __file__, str(arguments.run), "--split", arguments.split, "--side", side]
    command += ["--rows", str(arguments.rows)] if arguments.rows else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def shown(found: dict[str, list[dict[str, float]]]) -> str:
    """Rows a second of every side (median, least and most), and how many times as fast Burnish is."""
    ours = statistics.median(one["rows_per_second"] for one in found["burnish"])
    lines = ["| side | rows | rows a second | least to most | Burnish is |", "|---|---|---|---|---|"]
    for side, every in found.items():
        speeds = sorted(one["rows_per_second"] for one in every)
        middle = statistics.median(speeds)
        lines.append(
            f"| {side} | {every[0]['rows']:,.0f} | {middle:.0f} | {speeds[0]:.0f} to {speeds[-1]:.0f} | "
            f"{ours / middle:.2f} times as fast |"
        )
    whole = statistics.median(one["rows"] / one["whole"] for one in found["burnish"])
    return "\n".join([*lines, "", f"burnish, with metrics and their intervals: {whole:.0f} rows a second"])


def one_side(side: str, arguments: argparse.Namespace) -> dict[str, float]:
    """What this side takes for one pass."""
    from burnish.train.rescore import open_target, recipe_of_run

    config = recipe_of_run(arguments.run, [])
    target = open_target(config, arguments.split, run=arguments.run)
    if arguments.rows:
        target = replace(target, split=first_rows(target.split, arguments.rows))
    if side in OPTIONS:
        return trainer(target, str(config.model.path), **OPTIONS[side])
    from burnish.evaluate.classes import score_classes

    table = target.split.table
    parts = {WARM: table.take(range(WARM)), len(table): table}
    found = timed(lambda n: score_classes(target.view, parts[n]), len(table))
    began = time.perf_counter()
    target.score()
    return {**found, "whole": time.perf_counter() - began}


def first_rows(split: Any, rows: int) -> Any:
    """The beginning of a split; examples that are read from a file are read once, in their order."""
    examples = list(islice(split.examples, rows))
    return replace(split, table=split.table.take(range(rows)), examples=examples, true=split.true[:rows])


OPTIONS: dict[str, dict[str, Any]] = {
    "trainer": {"batch": 8, "bf16": False},
    "trainer-32": {"batch": 32, "bf16": False},
    "trainer-32-bf16": {"batch": 32, "bf16": True},
}


def trainer(target: Any, model: str, *, batch: int, bf16: bool) -> dict[str, float]:
    """`Trainer.predict` on the same tokens, padded to the longest row of each batch."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

    from burnish.models.locate import locate

    table = target.split.table
    rows = [table.row(i)[0].tolist() for i in range(len(table))]
    network = AutoModelForSequenceClassification.from_pretrained(
        locate(model).path, num_labels=len(target.loaded.classifier.labels)
    )
    data = Dataset.from_dict({"input_ids": rows, "label": table.labels.tolist()})
    with tempfile.TemporaryDirectory() as output:
        options = TrainingArguments(
            output, per_device_eval_batch_size=batch, bf16_full_eval=bf16, report_to=[], disable_tqdm=True, use_cpu=True
        )
        collator = DataCollatorWithPadding(target.loaded.tokenizer)
        runner = Trainer(model=network, args=options, data_collator=collator)
        return timed(lambda n: runner.predict(data.select(range(n))), len(rows))


def timed(score: Callable[[int], Any], rows: int) -> dict[str, float]:
    """Seconds of one pass over all rows, after a short one."""
    score(WARM)
    began = time.perf_counter()
    score(rows)
    seconds = time.perf_counter() - began
    return {"rows": rows, "seconds": seconds, "rows_per_second": rows / seconds}


if __name__ == "__main__":
    main()
