"""transformers' own Trainer on a classification, with PEFT's LoRA or full, padded to the longest row of a batch."""

from __future__ import annotations

from clock import Clock, load, parser, shared
from measure import read_job, read_rows, versions
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)


def main() -> None:
    """Train and print the measurements."""
    arguments = parser(__doc__).parse_args()
    job = read_job(arguments.folder)
    set_seed(0)
    model = load(AutoModelForSequenceClassification, arguments, num_labels=len(job["labels"]))
    if job["method"] == "lora":
        config = LoraConfig(
            r=job["rank"],
            lora_alpha=job["alpha"],
            target_modules=job["targets"],
            exclude_modules=["pooler.dense"],  # it belongs to the head, not to a layer
            task_type="SEQ_CLS",
        )
        model = get_peft_model(model, config)
    rows = read_rows(arguments.folder / "train.jsonl")
    clock = Clock(job["expected"]["updates"])
    Trainer(
        model=model,
        args=TrainingArguments(**shared(arguments, job, "trainer")),
        train_dataset=[{"input_ids": row["ids"], "labels": row["class"]} for row in rows],
        data_collator=DataCollatorWithPadding(AutoTokenizer.from_pretrained(arguments.folder / "model")),
        callbacks=[clock],
    ).train()
    clock.answer(arguments.folder, versions("transformers", "peft", "accelerate"))


if __name__ == "__main__":
    main()
