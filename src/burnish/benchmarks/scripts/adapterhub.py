"""AdapterHub's `adapters` with its own trainer: LoRA on the matrices that it knows of this model."""

from __future__ import annotations

from clock import Clock, load, parser, shared
from measure import read_job, read_rows, versions
from trainer_causal import features
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, TrainingArguments

from adapters import AdapterTrainer, LoRAConfig, init


def main() -> None:
    """Train and print the measurements."""
    arguments = parser(__doc__).parse_args()
    job = read_job(arguments.folder)
    model = load(AutoModelForCausalLM, arguments)
    init(model)
    config = LoRAConfig(
        r=job["rank"],
        alpha=job["alpha"],
        attn_matrices=["q", "k", "v"],
        intermediate_lora=True,
        output_lora=True,
        dtype=arguments.dtype,  # of the new weights; products of two formats are refused
    )
    model.add_adapter("job", config=config)
    model.train_adapter("job")
    clock = Clock(job["expected"]["updates"])
    AdapterTrainer(
        model=model,
        args=TrainingArguments(**shared(arguments, job, "adapters")),
        train_dataset=[features(row) for row in read_rows(arguments.folder / "train.jsonl")],
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(arguments.folder / "model")),
        callbacks=[clock],
    ).train()
    clock.answer(arguments.folder, versions("adapters", "transformers", "accelerate"))


if __name__ == "__main__":
    main()
