"""What scoring takes beside what a run holds: the heaviest pass over held-out rows, one over general texts, answers.

Passes are filled up to the budget of scoring whatever the rows of an update are, so that with short rows they are
heavier than any micro-batch of the training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from burnish.core.types import Batch, Term
from burnish.data.batches import Layout
from burnish.data.table import TokenTable
from burnish.evaluate.loss import View, tokens_on
from burnish.evaluate.retention.rows import make_rows
from burnish.evaluate.retention.score import of_chunk
from burnish.evaluate.retention.sources import read_set
from burnish.forecast.sketch import Sketch
from burnish.models.forward import hidden_states
from burnish.models.head import head_of
from burnish.models.load import Kind, Loaded
from burnish.plan.footprint import without_gradients
from burnish.plan.shadow import Shadow, autocast

PASSES = 4
"""The first passes, those of the longest rows, of which the heaviest is traced."""


def scoring_bytes(sketch: Sketch, shadow: Shadow, layout: Layout, terms: Sequence[Term]) -> int:
    """The most that lives while a run scores held-out rows and general texts, and generates answers.

    Args:
        sketch: The run.
        shadow: Its model.
        layout: How rows lie in a batch.
        terms: The objective of the task.
    """
    view = view_of(sketch, shadow, layout)
    prepared = sketch.prepared
    rows = heaviest(view, (prepared.validation, prepared.test))
    texts = heaviest(view, general_rows(sketch, view))
    answers = cache_bytes(sketch, view, torch.finfo(shadow.numbers.compute).bits // 8)
    of_rows = without_gradients(shadow, lambda: _scored(shadow, terms, rows)) + answers if rows else 0
    of_texts = without_gradients(shadow, lambda: _read(shadow, texts)) if texts else 0
    return max(of_rows, of_texts)


def view_of(sketch: Sketch, shadow: Shadow, layout: Layout) -> View:
    """How the model of a run is called while it is scored."""
    return View(
        Loaded(shadow.model, sketch.tokenizer, kind_of(sketch.values, shadow.model), "", Path()),
        layout,
        pass_tokens(sketch, shadow.model),
        partial(autocast, shadow.numbers),
        sketch.decoder_start,
    )


def pass_tokens(sketch: Sketch, model: PreTrainedModel) -> int:
    """Tokens of a pass while a run is scored."""
    return sketch.config.evaluate.batch_tokens or tokens_on(sketch.device, kind_of(sketch.values, model))


def kind_of(values: PreTrainedConfig, model: PreTrainedModel) -> Kind:
    """What a model is, by configuration and code alone: of an encoder every attention says that it is not causal."""
    if getattr(values, "is_encoder_decoder", False):
        return "seq2seq"
    said = {bool(m.is_causal) for m in model.modules() if hasattr(m, "is_causal")}
    return "encoder" if said == {False} else "causal"


def general_rows(sketch: Sketch, view: View) -> list[TokenTable]:
    """The texts and questions that show what a model still knows; none without a tokenizer to read them with."""
    wanted = sketch.config.evaluate.retention
    if not wanted.on or not callable(sketch.tokenizer):
        return []
    config = sketch.config
    rows = make_rows(
        read_set(wanted), view.loaded, wanted.max_length, config.virtual_tokens, extra_choices=not config.classifies
    )
    return [rows.texts, *([rows.answers] if rows.answers is not None else [])]


def heaviest(view: View, tables: Iterable[TokenTable]) -> Batch | None:
    """The pass with most places among the first ones over some tables; None of no rows."""
    made = (view.collate(table, rows) for table in tables if len(table) for rows in islice(view.batches(table), PASSES))
    return max(made, key=_places, default=None)


def _places(batch: Batch) -> int:
    """Places of a pass, those of a decoder included."""
    targets = batch.get("decoder_input_ids")
    return batch["input_ids"].numel() + (targets.numel() if targets is not None else 0)


def cache_bytes(sketch: Sketch, view: View, number: int) -> int:
    """Keys and values of every layer for the answers that are generated at a time; 0 where none are.

    Args:
        sketch: The run.
        view: How its model is called.
        number: Bytes of a number.
    """
    wanted = sketch.config.evaluate
    table = sketch.prepared.test if len(sketch.prepared.test) else sketch.prepared.validation
    rows = len(table) if wanted.metrics else min(wanted.samples, len(table))
    if sketch.config.classifies or not rows:
        return 0
    first = table.lengths_of(0, min(rows, len(table)))
    longest = int(first.max()) + wanted.generate.max_new_tokens
    return number * cached_numbers(sketch.values) * max(longest, min(rows * longest, view.batch_tokens))


def cached_numbers(values: PreTrainedConfig) -> int:
    """Numbers that all layers keep of a token while it is continued: a key and a value of each head."""
    text = values.get_text_config(decoder=True)
    heads: int = getattr(text, "num_attention_heads", None) or 1
    width = getattr(text, "head_dim", None) or getattr(text, "d_kv", None) or text.hidden_size // heads
    layers: int = getattr(text, "num_decoder_layers", None) or getattr(text, "num_hidden_layers", None) or 1
    return int(2 * layers * (getattr(text, "num_key_value_heads", None) or heads) * width)


def _scored(shadow: Shadow, terms: Sequence[Term], batch: Batch) -> None:
    context = shadow.context()
    for term in terms:
        if term.reads(batch):
            term.loss(batch, context)


def _read(shadow: Shadow, batch: Batch) -> object:
    """A general text, of which every token is predicted; by a model without a head for tokens it is only read."""
    hidden = hidden_states(shadow.model, batch)
    if shadow.classifier is not None:
        return hidden
    head, labelled = head_of(shadow.model), batch["labels"] != -100
    hidden, wanted = hidden[labelled], batch["labels"][labelled]
    chunk = slice(head.chunk_rows(hidden.device))
    return of_chunk(head, hidden[chunk], wanted[chunk])
