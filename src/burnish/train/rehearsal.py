"""The heaviest micro-batch first: memory runs out before the first update or not at all."""

from __future__ import annotations

from contextlib import nullcontext

from burnish.core.errors import UserError, out_of_memory
from burnish.core.types import Batch
from burnish.train.counting import count_units
from burnish.train.job import Job
from burnish.train.loop import backward, penalize, to_device


def rehearse(job: Job) -> int:
    """Run forward and backward of the heaviest micro-batch and throw the gradients away; returns its tokens.

    The run is the same with it and without: dropout is seeded anew in every update.

    Raises:
        UserError: Memory does not suffice; the fix keeps the rows per update, and so the result.
    """
    batch = to_device(job.updates.heaviest(), job.device)
    tokens = batch["input_ids"].numel()
    job.model.train()
    try:
        batches = [batch, *(to_device(other, job.device) for other in job.further(0))]
        counts = count_units(job.terms, batches)
        for each in batches:
            backward(job, each, counts)
        penalize(job, batch)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"memory does not suffice for the heaviest micro-batch of {tokens:,} tokens",
            where=f"batches.micro_batch_tokens; rows {', '.join(map(str, batch['row_ids'][:8]))}",
            fix=ways_out(job, batch),
        ) from error
    finally:
        for _, parameter in job.trainable:
            parameter.grad = None
    return tokens


def ways_out(job: Job, batch: Batch) -> str:
    """What saves memory and changes nothing else, the cheapest first."""
    ways = []
    if len(batch["row_ids"]) > 1:
        ways.append(f"`batches.micro_batch_tokens={batch['input_ids'].numel() // 2}` (the result stays the same)")
    if not any(getattr(m, "gradient_checkpointing", False) for m in job.model.modules()):
        ways.append("`train.gradient_checkpointing=true` (the result stays the same)")
    if job.device.type == "cuda" and isinstance(job.keeping(), nullcontext):
        ways.append("`memory.activation_offload=true` (slower, the result stays the same)")
    longest = max(batch.get("segment_lengths", (batch["input_ids"].shape[1],)))
    return "; or ".join([*ways, f"a `data.render.max_length` below {longest}", "`adapter.method=lora`"])
