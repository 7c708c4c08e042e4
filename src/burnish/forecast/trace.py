"""What a run of a recipe holds: its heaviest micro-batch and what scoring takes, traced on shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from burnish.core.types import Batch, Term
from burnish.forecast.held import Rows, held_bytes, more_batches, traced
from burnish.forecast.scoring import scoring_bytes
from burnish.forecast.sketch import Sketch, layers_of
from burnish.models.load import pad_id
from burnish.ops.cross_entropy import CHUNK_BYTES, CHUNK_BYTES_ACCELERATOR
from burnish.plan.footprint import Footprint, footprint
from burnish.plan.shadow import Numbers, shadow_of
from burnish.train.config import RunConfig
from burnish.train.precision import Precision

TRACED = (6, 10)
"""Layers that are traced of a model with more than twice as many equal ones; the rest follows on a line."""


def footprint_of(sketch: Sketch, batch: Batch | None = None, parts: int | None = None) -> Footprint:
    """What a run of the recipe holds.

    Args:
        sketch: The recipe.
        batch: Its heaviest micro-batch, where that is known.
        parts: Micro-batches of an update, likewise.
    """
    updates = sketch.all_updates()
    batch = batch if batch is not None else updates.heaviest()
    accumulates = (parts or len(updates[0])) > 1 or more_batches(sketch.config)
    layers, terms = layers_of(sketch.values), sketch.terms()
    trace = partial(_traced, sketch, batch, terms, accumulates)
    if layers is None or layers <= 2 * TRACED[1]:
        return trace(None)
    first, second = (trace(count) for count in TRACED)
    return first.scaled_between(second, TRACED, layers)


def numbers_of(precision: Precision) -> Numbers:
    """The formats as the plan knows them."""
    return Numbers(precision.compute, precision.base, precision.autocast, precision.eight)


def outputs_of(config: RunConfig) -> int:
    """Numbers of a new head; 0 without one."""
    if not config.classifies:
        return 0
    if config.task.head == "extractive-qa":
        return 2
    return len(getattr(config.task, "labels", ()) or ()) or 1


def _traced(sketch: Sketch, batch: Batch, terms: Sequence[Term], accumulates: bool, layers: int | None) -> Footprint:
    config = sketch.config
    shadow = shadow_of(
        sketch.shapes(layers),
        config.adapters,
        numbers_of(sketch.precision),
        quantization=config.model.quantization,
        outputs=outputs_of(config),
        pooling="tokens" if getattr(config.task, "pooling", "tokens") == "tokens" else "mean",
        packed="segment_lengths" in batch,
        checkpointing=config.train.gradient_checkpointing,
    )
    rows = Rows(
        sketch.prepared.train,
        sketch.tokenizer,
        "packed" if "segment_lengths" in batch else "padded",
        pad_id(sketch.tokenizer),
        sketch.decoder_start,
        sketch.device,
    )
    more = traced(config, shadow, rows)
    found = max(
        (
            footprint(
                shadow,
                one,
                [term for term in (*terms, *more.terms) if term.reads(one)],
                optimizer=config.memory.optimizer,
                accumulates=accumulates,
            )
            for one in (batch, more.batch)
            if one is not None
        ),
        key=lambda one: one.activations + one.working,
    )
    evaluation = scoring_bytes(sketch, shadow, rows.layout, terms)
    found = replace(found, evaluation=evaluation, held=held_bytes(config, shadow, sketch.device))
    return found if sketch.device == "cpu" else replace(found, working=found.working + _larger_chunk(sketch, batch))


def _larger_chunk(sketch: Sketch, batch: Batch) -> int:
    """What the loss takes more on a GPU, where it makes the logits of more positions at a time."""
    if sketch.config.classifies:
        return 0
    logits = 4 * int((batch["labels"] != -100).sum()) * sketch.values.get_text_config().vocab_size
    return max(0, min(logits, CHUNK_BYTES_ACCELERATOR) - CHUNK_BYTES["cpu"])
