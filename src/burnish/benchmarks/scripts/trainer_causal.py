"""transformers' own Trainer, with PEFT's LoRA or full, and the collator of its documentation for labels."""

from __future__ import annotations

from typing import Any

from clock import Clock, load, parser, shared
from measure import IGNORED, Row, read_job, read_rows, versions
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments


def features(row: Row) -> dict[str, Any]:
    """Ids and labels of a row; the prompt is not trained."""
    prompt = row["prompt_tokens"]
    return {"input_ids": row["ids"], "labels": [IGNORED] * prompt + row["ids"][prompt:]}


def main() -> None:
    """Train and print the measurements."""
    arguments = parser(__doc__).parse_args()
    job = read_job(arguments.folder)
    model = load(AutoModelForCausalLM, arguments)
    if job["method"] == "lora":
        config = LoraConfig(
            r=job["rank"], lora_alpha=job["alpha"], target_modules=job["targets"], task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, config)
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder / "model")
    clock = Clock(job["expected"]["updates"])
    Trainer(
        model=model,
        args=TrainingArguments(**shared(arguments, job, "trainer")),
        train_dataset=[features(row) for row in read_rows(arguments.folder / "train.jsonl")],
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=[clock],
    ).train()
    clock.answer(arguments.folder, versions("transformers", "peft", "accelerate"))


if __name__ == "__main__":
    main()
