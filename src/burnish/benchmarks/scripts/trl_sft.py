"""TRL's SFTTrainer, with PEFT's LoRA or full: as its documentation shows it, or tuned for a processor."""

from __future__ import annotations

from clock import Clock, load, parser, shared
from datasets import Dataset
from measure import read_job, read_rows, versions
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Train and print the measurements."""
    options = parser(__doc__)
    options.add_argument("--padding-free", action="store_true")
    options.add_argument("--packing", action="store_true")
    options.add_argument("--liger", action="store_true")
    arguments = options.parse_args()
    job = read_job(arguments.folder)
    rows = [{key: row[key] for key in ("prompt", "completion")} for row in read_rows(arguments.folder / "train.jsonl")]
    lora = LoraConfig(r=job["rank"], lora_alpha=job["alpha"], target_modules=job["targets"], task_type="CAUSAL_LM")
    clock = Clock(job["expected"]["updates"])
    SFTTrainer(
        model=load(AutoModelForCausalLM, arguments),
        args=SFTConfig(
            **shared(arguments, job, "trl"),
            # every row fits; without a padding to cut, TRL wants no length
            max_length=None if arguments.padding_free and not arguments.packing else job["max_tokens"],
            packing=arguments.packing,
            padding_free=arguments.padding_free,
            use_liger_kernel=arguments.liger,
            completion_only_loss=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(arguments.folder / "model"),
        peft_config=lora if job["method"] == "lora" else None,
        callbacks=[clock],
    ).train()
    clock.answer(arguments.folder, versions("trl", "peft", "transformers", "accelerate"))


if __name__ == "__main__":
    main()
