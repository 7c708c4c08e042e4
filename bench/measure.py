"""What every contender measures in the same way; needs torch and transformers only."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

BEGAN = time.time()


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ids_of(tokenizer: Any, row: dict[str, str]) -> tuple[list[int], int]:
    """Token ids of a row with its EOS, and how many of them are the prompt."""
    prompt = tokenizer(row["prompt"])["input_ids"]
    return prompt + tokenizer(row["completion"])["input_ids"] + [tokenizer.eos_token_id], len(prompt)


def count_tokens(tokenizer: Any, rows: list[dict[str, str]]) -> int:
    """Tokens of the rows; padding is none of them."""
    return sum(len(ids_of(tokenizer, row)[0]) for row in rows)


@torch.no_grad()
def held_out_loss(model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> float:
    """Mean negative log-likelihood of the completions' tokens, row by row, the logits in fp32."""
    model.eval()
    total, count = 0.0, 0
    for row in rows:
        ids, prompt = ids_of(tokenizer, row)
        logits = model(input_ids=torch.tensor([ids])).logits[0, prompt - 1 : -1].float()
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[prompt:]), reduction="sum"))
        count += len(ids) - prompt
    return total / count


def answer(**values: Any) -> None:
    """The last line of a contender: its measurements as JSON."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak, "torch": torch.__version__, **values}))
    sys.stdout.flush()
