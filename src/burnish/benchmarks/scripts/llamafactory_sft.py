"""LLaMA-Factory's supervised fine-tuning by its Python entry, the one behind `llamafactory-cli train`.

Its template `empty` adds nothing around prompt and completion, so the end token is written into the completion.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clock import Clock, parser, shared
from llamafactory.train.tuner import run_exp
from measure import read_job, read_rows, versions


def write_data(folder: Path, end: str) -> Path:
    """The rows in its own form, with their description."""
    data = folder / "llamafactory-data"
    data.mkdir(exist_ok=True)
    rows = [
        {"instruction": row["prompt"], "input": "", "output": row["completion"] + end}
        for row in read_rows(folder / "train.jsonl")
    ]
    (data / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    (data / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}), encoding="utf-8")
    return data


def main() -> None:
    """Train and print the measurements."""
    arguments = parser(__doc__).parse_args()
    job = read_job(arguments.folder)
    common = shared(arguments, job, "llamafactory")
    given: dict[str, Any] = {
        **{key: value for key, value in common.items() if key != "report_to"},
        "stage": "sft",
        "do_train": True,
        "report_to": "none",
        "model_name_or_path": str(arguments.folder / "model"),
        "dataset_dir": str(write_data(arguments.folder, job["end"])),
        "dataset": "rows",
        "template": "empty",
        "cutoff_len": job["max_tokens"],
        "finetuning_type": job["method"],
        "pure_bf16": arguments.dtype == "bfloat16",
        "disable_gradient_checkpointing": True,
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,
    }
    if job["method"] == "lora":
        targets = job["targets"]
        given |= {
            "lora_rank": job["rank"],
            "lora_alpha": job["alpha"],
            "lora_dropout": 0.0,
            "lora_target": "all" if targets == "all-linear" else ",".join(targets),
        }
    clock = Clock(job["expected"]["updates"])
    run_exp(given, callbacks=[clock])
    clock.answer(arguments.folder, versions("llamafactory", "transformers", "peft", "trl", "accelerate"))


if __name__ == "__main__":
    main()
