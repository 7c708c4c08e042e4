"""One method of PEFT in a plain loop over a model of transformers, tuned: as a careful user writes it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import peft
import torch
from clock import load, parser
from measure import IGNORED, Row, Watch, held_out_loss, read_job, read_rows, versions
from transformers import AutoModelForCausalLM


def updates(rows: Sequence[Row], job: dict[str, Any], micro: int, by_length: bool) -> Iterator[list[list[Row]]]:
    """The micro-batches of every update, over all epochs; rows of like length together where asked for."""
    order = random.Random(0)
    size = job["batch_size"]
    for _ in range(job["epochs"]):
        shuffled = list(rows)
        order.shuffle(shuffled)
        for start in range(0, len(shuffled), size):
            update = shuffled[start : start + size]
            if by_length:
                update.sort(key=lambda row: len(row["ids"]))
            yield [update[i : i + micro] for i in range(0, len(update), micro)]


def padded(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Ids, mask and labels of a micro-batch, padded to its longest row; prompts are not trained."""
    width = max(len(row["ids"]) for row in rows)
    ids, mask, labels = (torch.full((len(rows), width), fill) for fill in (0, 0, IGNORED))
    for i, row in enumerate(rows):
        length, prompt = len(row["ids"]), row["prompt_tokens"]
        ids[i, :length] = torch.tensor(row["ids"])
        mask[i, :length] = 1
        labels[i, prompt:length] = torch.tensor(row["ids"][prompt:])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def main() -> None:
    """Train and print the measurements."""
    arguments = parser(__doc__).parse_args()
    job = read_job(arguments.folder)
    settings = dict(job["peft"])
    config = getattr(peft, settings.pop("class"))(task_type="CAUSAL_LM", **settings)
    model = peft.get_peft_model(load(AutoModelForCausalLM, arguments), config)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job["learning_rate"], weight_decay=0.0)
    watch = Watch(job["expected"]["updates"])
    watch.see(model)
    half = torch.autocast("cpu", torch.bfloat16) if arguments.autocast else nullcontext()
    micro = arguments.micro_batch or job["batch_size"]
    model.train()
    for update in updates(read_rows(arguments.folder / "train.jsonl"), job, micro, arguments.by_length):
        watch.begin()
        batches = [padded(rows) for rows in update]
        total = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
        for batch in batches:
            with half:
                loss = model(**batch, num_items_in_batch=total).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        watch.end()
    model.eval()

    def logits(ids: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids).logits[:, -ids.shape[1] :]  # virtual tokens stand before the row

    scores = held_out_loss(logits, read_rows(arguments.folder / "held_out.jsonl"))
    watch.answer(scores, versions("peft", "transformers"), examples=job["expected"]["rows"] * job["epochs"])


if __name__ == "__main__":
    main()
