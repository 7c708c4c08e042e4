"""Merging an adapter that was trained beside weights of 4 bits: into which base, and what it loses.

The adapter learnt to correct ``unpack(pack(W))``. Merged into W itself it meets weights that it has not seen, which are
the better ones; merged into ``unpack(pack(W))`` the result computes what was trained. Neither is better in general, so
both are measured on held-out rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from burnish.adapters.load import load as load_adapters
from burnish.adapters.merge import MergedBase, MergeReport, fold, mean_kl, outputs_of, probe, refuse_taken, write
from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.models.classifier import Classifier
from burnish.models.classifier_files import with_classifier
from burnish.models.config import ModelConfig
from burnish.models.generate import GenerateConfig
from burnish.models.generation_file import with_settings
from burnish.models.load import Loaded, load
from burnish.models.quantize import round_trip_
from burnish.train.rescore import HeldOut

BaseName = Literal["best", "full", "dequantized"]
COMPARED_ROWS, COMPARED_TOKENS = 8, 64
"""How many held-out rows, and tokens of each, have their logits compared: what fits into memory for any vocabulary."""


@dataclass(frozen=True)
class Place:
    """What is merged, and where to.

    Attributes:
        folder: The adapter.
        model: Its base, as it was trained on.
        out: A folder that does not exist or is empty.
        dtype: Format of the merged weights.
        head: The head of a classification.
        settings: How the model is to write, where the adapter's folder says so.
    """

    folder: Path
    model: ModelConfig
    out: Path
    dtype: torch.dtype
    head: Classifier | None
    settings: GenerateConfig | None = None

    def load(self, model: ModelConfig, dtype: torch.dtype | None = None) -> Loaded:
        """A base, with the head and the settings."""
        loaded = load(model, dtype or self.dtype, headless=self.head is not None)
        if self.settings is not None:
            loaded.model.generation_config = with_settings(loaded.model, self.settings)
        return with_classifier(loaded, self.head) if self.head is not None else loaded


def merge_from_4_bits(place: Place, base: str, rows: HeldOut | None) -> MergeReport:
    """Merge into the base that does better, or into the one asked for; the report holds what each came to.

    Better is the lower loss on held-out rows, or without these the smaller divergence from the trained model.

    Raises:
        UserError: An unknown base, or what ``merge`` refuses.
    """
    if base not in get_args(BaseName):
        raise UserError(f"there is no base `{base}`", where="--base", fix=suggestion(base, get_args(BaseName)))
    refuse_taken(place.out)
    ids = [torch.tensor([row[:COMPARED_TOKENS]]) for row in (rows.ids[:COMPARED_ROWS] if rows else []) if row]
    trained = place.load(place.model, torch.float32)
    load_adapters(place.folder, trained.model)
    wanted = _logits(trained, ids)
    found = [MergedBase("trained", 0.0, 0.0, rows.score(trained) if rows else {})]
    del trained  # one model at a time, and the best one so far
    best: tuple[float, str, Loaded, MergeReport] | None = None
    for name in [n for n in get_args(BaseName)[1:] if base in ("best", n)]:
        loaded = _base(place, dequantized=name == "dequantized")
        report = fold(loaded, place.folder)
        merged = _compare(name, wanted, _logits(loaded, ids), rows.score(loaded) if rows else {})
        found.append(merged)
        rank = merged.metrics.get("loss", merged.kl)
        if best is None or rank < best[0]:
            best = rank, name, loaded, report
    assert best is not None
    _, taken, loaded, report = best
    marked = tuple(replace(item, taken=item.base == taken) for item in found)
    return replace(write(report, loaded, place.out), bases=marked)


def _base(place: Place, *, dequantized: bool) -> Loaded:
    """The whole base; its codes are made of the weights as the files hold them, so they are read in full first."""
    whole = place.model.model_copy(update={"quantization": None})
    if not dequantized:
        return place.load(whole)
    assert place.model.quantization is not None
    loaded = place.load(whole, torch.float32)
    round_trip_(loaded.model, place.model.quantization)
    for parameter in loaded.model.parameters():
        parameter.data = parameter.data.to(place.dtype)
    return loaded


def _logits(loaded: Loaded, ids: Sequence[Tensor]) -> list[Tensor]:
    """Logits of rows, or of a fixed probe where there are none."""
    inputs = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids] or [probe(loaded.model)]
    if loaded.kind == "seq2seq":
        inputs = [{**row, "decoder_input_ids": row["input_ids"].flip(1)} for row in inputs]
    return [outputs_of(loaded, row).float() for row in inputs]


def _compare(name: str, wanted: Sequence[Tensor], found: Sequence[Tensor], metrics: dict[str, float]) -> MergedBase:
    pairs = list(zip(wanted, found, strict=True))
    flat = [tuple(t.reshape(-1, t.shape[-1]) for t in pair) for pair in pairs]
    kl = sum(mean_kl(a.double(), b.double()) * len(a) for a, b in flat) / sum(len(a) for a, _ in flat)
    return MergedBase(name, max(float((a - b).abs().max()) for a, b in pairs), kl, metrics)
