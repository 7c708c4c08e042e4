"""A run folder with plausible numbers, made up without a model; ``python -m tests.report.synthetic FOLDER`` writes one.

The counts of the classification are those of `predictions.jsonl`, so that everything in the folder agrees.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

LABELS = ("negative", "neutral", "positive")
STEPS, ROWS, EVALUATE = 150, 300, 15
RIGHT = {"base": 0.38, "tuned": 0.72}
TEXTS = (
    "the update broke my login again, third time this week",
    "flight now leaves from gate 14",
    "what a lovely morning by the sea, thank you all",
    "@support is anybody there? waiting for forty minutes …",
    "new opening hours from Monday: 9 to 17",
    "best concert I have seen in years!! 🎸",
)


def write_run(folder: Path, *, choices: bool = True, finished: bool = True) -> Path:
    """Write the files of a run.

    Args:
        folder: The run folder, made where it is missing.
        choices: Whether the recipe names choices: accuracy, macro-F1, confusion.
        finished: Without it the folder is that of a run which was interrupted at step 60.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(7)
    put(folder / "environment.json", ENVIRONMENT)
    put(folder / "data.json", data())
    put(folder / "model.json", model())
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(choices), sort_keys=False), encoding="utf-8")
    put_rows(folder / "findings.jsonl", FINDINGS)
    log = metrics(draw, choices, STEPS if finished else 60)
    if not finished:
        put_rows(folder / "metrics.jsonl", log)
        return folder
    put_rows(folder / "metrics.jsonl", [*log, FINISHED])
    rows = predictions(draw, choices)
    put_rows(folder / "predictions.jsonl", rows)
    put(folder / "evaluation.json", evaluation(rows, choices))
    best = min((row for row in log if row["kind"] == "validation"), key=lambda row: row["loss"])
    name = f"step-{best['step']:06d}"
    put(folder / "best.json", {"step": best["step"], "metric": "loss", "value": best["loss"], "checkpoint": name})
    put_rows(folder / "samples.jsonl", samples(rows))
    (folder / "final").mkdir(exist_ok=True)
    return folder


def put(path: Path, value: Any) -> None:
    """Write JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def put_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write JSONL."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def get(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def change(path: Path, **values: Any) -> None:
    """Replace top-level values of a JSON file."""
    put(path, {**get(path), **values})


def metrics(draw: random.Random, choices: bool, steps: int) -> list[dict[str, Any]]:
    """Lines of the log: a loss that falls and settles, a cosine schedule, a validation loss that turns at the end."""
    log: list[dict[str, Any]] = []
    best = math.inf
    for step in range(1, steps + 1):
        loss = 0.42 + 4.2 * math.exp(-step / 6) + 0.35 * math.exp(-step / 50) + draw.gauss(0, 0.06)
        rate = 4e-4 * min(step / 5, 0.5 + 0.5 * math.cos(math.pi * max(0, step - 5) / (STEPS - 5)))
        tokens = draw.randint(560, 760)
        speed = draw.gauss(212, 14) * (0.5 if step == 1 else 1)
        log.append(
            {
                "kind": "train",
                "step": step,
                "epoch": step / STEPS * 2,
                "loss": loss,
                "grad_norm": 1.4 + 9 * math.exp(-step / 9) + abs(draw.gauss(0, 0.5)),
                "learning_rate": rate,
                "rows": 16,
                "micro_batches": 1,
                "tokens": tokens,
                "trained_tokens": 32,
                "seconds": tokens / speed,
                "tokens_per_second": speed,
            }
        )
        if step % EVALUATE == 0:
            valid = 0.44 + 0.5 * math.exp(-step / 30) + 0.0000045 * max(0, step - 105) ** 2 + draw.gauss(0, 0.004)
            line = {"kind": "validation", "step": step, "epoch": step / STEPS * 2, "loss": valid}
            line |= {"perplexity": math.exp(valid)}
            if choices:
                f1 = 0.66 - 0.4 * math.exp(-step / 35) + draw.gauss(0, 0.008)
                line |= {"accuracy": f1 + 0.05, "macro_f1": f1}
            log.append({**line, "improved": valid < best})
            best = min(best, valid)
    return log


def predictions(draw: random.Random, choices: bool) -> list[dict[str, Any]]:
    """Held-out rows with an answer of each model, right with a probability of its own."""
    rows = []
    for i in range(ROWS):
        target = draw.choices(LABELS, (5, 3, 4))[0]
        text = TEXTS[i % len(TEXTS)]
        row: dict[str, Any] = {"id": f"tweets.csv:{2 + 3 * i}", "target": f" {target}"}
        row["prompt"] = f"Classify the sentiment: {text} ({i})\nSentiment:"
        for name, chance in RIGHT.items():
            row[name] = {"loss": max(0.02, draw.gauss(2.4 if name == "base" else 0.5, 0.2))}
            if choices:
                wrong = draw.choice([label for label in LABELS if label != target])
                said = target if draw.random() < chance else wrong
                row[name] |= {"predicted": said, "probability": draw.uniform(0.4, 0.98)}
        rows.append(row)
    return rows


def evaluation(rows: list[dict[str, Any]], choices: bool) -> dict[str, Any]:
    """``evaluation.json`` from the rows; the intervals are of the right width, no more."""
    result: dict[str, Any] = {"split": "test", "rows": len(rows)}
    for name in RIGHT:
        loss = sum(row[name]["loss"] for row in rows) / len(rows)
        result[name] = {
            "metrics": {
                "loss": around(loss, 0.03),
                "perplexity": {k: math.exp(v) for k, v in around(loss, 0.03).items()},
            }
        }
        if choices:
            result[name] = classified(rows, name, result[name]["metrics"])
    change = result["tuned"]["metrics"]["loss"]["value"] - result["base"]["metrics"]["loss"]["value"]
    comparison: dict[str, Any] = {
        "loss": {"difference": change, "low": change - 0.04, "high": change + 0.04},
    }
    if choices:
        right = [[row[name]["predicted"] == row["target"].strip() for row in rows] for name in RIGHT]
        lost = sum(a and not b for a, b in zip(*right, strict=True))
        won = sum(b and not a for a, b in zip(*right, strict=True))
        values = [result[name]["metrics"] for name in RIGHT]
        comparison["accuracy"] = {
            "difference": values[1]["accuracy"]["value"] - values[0]["accuracy"]["value"],
            "p_value": 3.1e-17,
            "only_base_right": lost,
            "only_tuned_right": won,
        }
        comparison["macro_f1"] = {"difference": values[1]["macro_f1"]["value"] - values[0]["macro_f1"]["value"]}
    return {**result, "comparison": comparison}


def classified(rows: list[dict[str, Any]], name: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """The tables of one model's classification."""
    counts = [
        [sum(r["target"].strip() == t and r[name]["predicted"] == p for r in rows) for p in LABELS] for t in LABELS
    ]
    per_class = {}
    for i, label in enumerate(LABELS):
        said, true = sum(row[i] for row in counts), sum(counts[i])
        per_class[label] = {
            "precision": counts[i][i] / said,
            "recall": counts[i][i] / true,
            "f1": 2 * counts[i][i] / (said + true),
            "support": true,
        }
    accuracy = sum(counts[i][i] for i in range(len(LABELS))) / len(rows)
    macro = sum(one["f1"] for one in per_class.values()) / len(LABELS)
    scores = {"accuracy": around(accuracy, 0.055), "macro_f1": around(macro, 0.055)}
    return {
        "metrics": {**scores, **metrics},
        "confusion": {"labels": list(LABELS), "counts": counts},
        "per_class": per_class,
    }


def around(value: float, half: float) -> dict[str, float]:
    """A value in an interval."""
    return {"value": value, "low": value - half, "high": value + half}


def samples(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Generations: the base model talks, the tuned one answers."""
    talk = (
        "I'm not sure what you mean by that, but here is a list of things to try:\n\n1. Log out.\n2. Log in.",
        " The sentiment of this text is neutral, because it states a fact about a gate and a flight. The text does not",
        "Sentiment: Positive\nSentiment: Positive\nSentiment: Positive\nSentiment: Positive",
    )
    return [
        {"id": r["id"], "prompt": r["prompt"], "target": r["target"], "base": talk[i % 3], "tuned": r["target"]}
        for i, r in enumerate(rows[:3])
    ]


def model() -> dict[str, Any]:
    """``model.json`` of a small Llama with LoRA in every linear map of its 30 layers."""
    roles = {
        "attention.query": ("self_attn.q_proj", 18432),
        "attention.key": ("self_attn.k_proj", 12288),
        "attention.value": ("self_attn.v_proj", 12288),
        "attention.output": ("self_attn.o_proj", 18432),
        "mlp.gate": ("mlp.gate_proj", 33792),
        "mlp.up": ("mlp.up_proj", 33792),
        "mlp.down": ("mlp.down_proj", 33792),
    }
    sites = [
        {"name": f"model.layers.{layer}.{end}", "role": role, "layer": layer, "parameters": size}
        for layer in range(30)
        for role, (end, size) in roles.items()
    ]
    trainable = sum(site["parameters"] for site in sites)
    return {
        "path": "/models/small-llama",
        "kind": "causal",
        "model_type": "llama",
        "origin": {
            "path": "models/small-llama-135M-instruct.gguf",
            "kind": "gguf",
            "sha256": "3f" * 32,
            "model_type": "llama",
            "class": "LlamaForCausalLM",
            "parameters": 134515008,
        },
        "parameters": 134515008,
        "trainable": trainable,
        "trainable_share": trainable / 134515008,
        "adapter": [
            {"method": "lora", "rank": 16, "alpha": None, "dropout": 0.0, "rslora": False, "targets": "all-linear"}
        ],
        "sites": sites,
        "layout": "packed",
        "updates": STEPS,
        "device": "cpu",
        "precision": {
            "compute": "fp32",
            "weights": "fp32",
            "trained": "fp32",
            "reason": "bf16 products run at 19 GFLOP/s here, fp32 at 161",
        },
        "learning_rate": {
            "value": 4e-4,
            "reason": "LoRA starts at zero and trains few weights, so it takes about ten times the learning rate of "
            "full tuning",
        },
    }


def data() -> dict[str, Any]:
    """``data.json``: one source, split in three."""
    sizes = {"train": 1200, "validation": 200, "test": ROWS}
    read = {"read": (38158, 0, 0), "convert": (38158, 0, 0), "duplicates": (37290, 0, 0)}
    later = {"split": (36790, 200, 300), "leaks": (36786, 200, 300), "train_rows": (1200, 200, 300)}
    steps = {**read, **later, "render": (1200, 200, 300)}
    return {
        "sources": [
            {
                "part": "train",
                "path": "corpora/tweets.csv",
                "format": "prompt_completion",
                "format_why": "the recipe has templates",
                "columns_used": ["text", "sentiment"],
                "rows": 38158,
                "dropped_rows": 0,
                "bad_bytes": 24181,
                "bad_byte_rows": 4934,
                "sha256": "9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303",
                "n_files": 1,
                "files": [],
            }
        ],
        "steps": [{"step": s, **dict(zip(sizes, counts, strict=True))} for s, counts in steps.items()],
        "split": {"seed": 0, "group": None, "stratify": "sentiment"},
        "splits": {name: split(size) for name, size in sizes.items()},
        "duplicates": {"train": {"copies": 868, "repeated_prompts": 915, "conflicting_prompts": 46}},
        "leaks": {"train in test": 4},
        "n_dropped": 2,
        "dropped": [
            {"split": "train", "id": "tweets.csv:811", "reason": "its target is empty"},
            {"split": "train", "id": "tweets.csv:9120", "reason": "its target is empty"},
        ],
    }


def split(rows: int) -> dict[str, Any]:
    """One split of ``data.json``."""
    points = (15, 24, 35, 44, 51, 64, 76, 144)
    names = ("min", "p5", "p25", "p50", "p75", "p95", "p99", "max")
    spans = [
        {"text": f"Classify the sentiment: {TEXTS[0]}\nSentiment:", "trained": False},
        {"text": " negative<|im_end|>", "trained": True},
    ]
    return {
        "rows": rows,
        "tokens": rows * 44,
        "trained_tokens": rows * 2,
        "trained_share": 2 / 44,
        "lengths": {**dict(zip(names, points, strict=True)), "mean": 43.7},
        "trained_lengths": {**dict.fromkeys(names, 2), "mean": 2.0},
        "truncated_rows": 3,
        "lost_target_tokens": 0,
        "dropped_rows": 0,
        "sha256": "ab" * 32,
        "shown": [{"id": f"tweets.csv:{i}", "spans": spans} for i in (11, 90)],
    }


def recipe(choices: bool) -> dict[str, Any]:
    """The resolved recipe, in part."""
    return {
        "name": "sentiment",
        "seed": 0,
        "model": {"path": "models/small-llama-135M-instruct.gguf"},
        "data": {"train": {"path": "corpora/tweets.csv", "prompt": "Classify the sentiment: {text}\nSentiment:"}},
        "adapter": {"method": "lora", "rank": 16},
        "train": {"batch_size": 16, "num_epochs": 2.0, "max_grad_norm": 1.0},
        "evaluate": {"choices": list(LABELS) if choices else []},
        "early_stopping": {"metric": "loss"},
    }


ENVIRONMENT: dict[str, Any] = {
    "python": "3.11.7",
    "system": "Linux x86_64",
    "versions": {"burnish": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"},
    "device": "CPU",
    "threads": 2,
    "cpu_features": ["avx2"],
    "memory_bytes": 25276510208,
}
FINDINGS: tuple[dict[str, Any], ...] = (
    {
        "severity": "note",
        "code": "train.parameters",
        "what": "4,884,480 parameters are trained (3.63% of the model) at 210 sites; rows are packed",
        "where": "adapter",
        "why": "",
        "fix": "",
        "evidence": {},
    },
    {
        "severity": "warning",
        "code": "data.conflicting-targets",
        "what": "46 prompts of the train data have several different targets (93 rows); they are kept",
        "where": "data.train",
        "why": "No model can give both answers; if they are classes, this bounds the accuracy.",
        "fix": "Look at the listed rows.",
        "evidence": {"prompts": 46, "rows": 93},
    },
)
FINISHED: dict[str, Any] = {
    "kind": "finished",
    "step": STEPS,
    "reason": "completed",
    "seconds": 701.3,
    "training_seconds": 470.2,
    "tokens": 98000,
    "trained_tokens": 4800,
    "skipped_steps": 0,
    "peak_memory_bytes": 3433537536,
}

if __name__ == "__main__":
    print(write_run(Path(sys.argv[1])))
