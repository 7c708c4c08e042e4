"""Merging a saved adapter into its base: a plain model folder that `transformers` loads."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from burnish.adapters.load import load
from burnish.adapters.own_format import save_model
from burnish.core.errors import UserError
from burnish.core.files import disk_errors, make_readable
from burnish.core.types import Batch
from burnish.models.classifier import class_logits
from burnish.models.classifier_files import save_classifying_model
from burnish.models.load import Loaded
from burnish.models.probe import probing

PROBE_ROWS, PROBE_LENGTH = 2, 32
TOLERANCES = {"float64": 1e-9, "float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest change of a logit by merging, as a share of the largest logit. Rounding W + sBA once to the weights' format
(2^-24, 2^-11, 2^-8 of a weight) adds up over the layers to about a tenth of this."""
LOSS_TOLERANCE = 0.05
"""Largest relative change of the loss on held-out rows by merging, with 1 nat for losses that are smaller."""

Measure = Callable[[Loaded], dict[str, float]]


@dataclass(frozen=True)
class MergedBase:
    """What merging an adapter into one of several bases came to, held against the model as it was trained.

    Attributes:
        base: Which base.
        difference: Largest absolute difference of a logit on held-out rows.
        kl: Mean Kullback-Leibler divergence of the next token, trained from merged, on these rows, in nats.
        metrics: Metrics on held-out rows; empty where nobody measures.
        taken: Whether this is the one that was written.
    """

    base: str
    difference: float
    kl: float
    metrics: dict[str, float] = field(default_factory=dict)
    taken: bool = False


@dataclass(frozen=True)
class MergeReport:
    """What merging did.

    Attributes:
        folder: The model folder.
        sites: How many matrices took an update.
        difference: Largest absolute difference between a logit before and after, on the probe.
        effect: Largest absolute change that the adapter itself makes to a logit of the base, to compare it with.
        scale: Largest absolute logit of the probe.
        kl: Mean Kullback-Leibler divergence of the next token before from after, on the probe, in nats.
        dtype: Format of the merged weights.
        before: Metrics on held-out rows with the adapter beside its base; empty where nobody measures.
        after: The same with the adapter merged.
        read_by: Who reads a classifier's folder; empty for a language model, which `transformers` reads.
        bases: Of an adapter that was trained beside weights of 4 bits: what merging into each base came to.
    """

    folder: Path
    sites: int
    difference: float
    effect: float
    scale: float
    kl: float
    dtype: str
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    read_by: str = ""
    bases: tuple[MergedBase, ...] = ()


def merge(loaded: Loaded, adapter_folder: Path, out: Path, measure: Measure | None = None) -> MergeReport:
    """Fold a saved adapter into ``loaded`` and write the result as a model folder with its tokenizer.

    The update is computed in fp32 and rounded once to the base's format, so in half precision the logits differ a
    little from those of base and adapter; the report says by how much.

    Args:
        loaded: The base. Its model is merged in place.
        adapter_folder: What ``Attached.save`` or `peft` wrote.
        out: A folder that does not exist or is empty.
        measure: Metrics of a model on held-out rows, `loss` among them; called before and after.

    Raises:
        UserError: ``out`` is taken, the adapter does not fit, or merging changes logits or loss by more than rounding
            can. Nothing is left at ``out``.
        NotMergeable: The adapter has no closed form.
    """
    refuse_taken(out)
    return write(fold(loaded, adapter_folder, measure), loaded, out)


def refuse_taken(out: Path) -> None:
    """Refuse a place for the merged model that holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("the place for the merged model is taken", where=str(out), fix="name a new folder")


def fold(loaded: Loaded, adapter_folder: Path, measure: Measure | None = None) -> MergeReport:
    """``merge`` up to the file: the model is merged in place, and nothing is written.

    Raises:
        UserError: The adapter does not fit, or merging changes logits or loss by more than rounding can.
        NotMergeable: The adapter has no closed form.
    """
    attached = load(adapter_folder, loaded.model)
    sites = len(attached.placed)
    inputs = probe(loaded.model)
    with attached.disabled():
        base = outputs_of(loaded, inputs)
    before = outputs_of(loaded, inputs)
    measured = measure(loaded) if measure else {}
    try:
        attached.merge_()
    except UserError:
        attached.detach_()
        raise
    after = outputs_of(loaded, inputs)
    report = MergeReport(
        folder=Path(),
        sites=sites,
        difference=float((before - after).abs().max()),
        effect=float((before - base).abs().max()),
        scale=float(before.abs().max()),
        kl=mean_kl(before, after),
        dtype=str(next(loaded.model.parameters()).dtype).removeprefix("torch."),
        before=measured,
        after=measure(loaded) if measure else {},
    )
    _refuse_changes(report, adapter_folder)
    return report


def write(report: MergeReport, loaded: Loaded, out: Path) -> MergeReport:
    """Write a model that ``fold`` merged, as a model folder with its tokenizer."""
    return replace(report, folder=out, read_by=_write(loaded, out))


def _refuse_changes(report: MergeReport, adapter_folder: Path) -> None:
    fault, allowed = "", TOLERANCES[report.dtype]
    if not math.isfinite(report.difference):
        fault = "the merged model's logits are not finite"
    elif report.difference > allowed * report.scale:
        fault = f"merging changes a logit by {report.difference:.3g}, more than {allowed:.0e} of the largest"
    elif report.before:
        loss, merged = report.before["loss"], report.after["loss"]
        if not abs(merged - loss) <= LOSS_TOLERANCE * max(loss, 1.0):
            fault = f"merging changes the loss on held-out rows from {loss:.4g} to {merged:.4g}"
    if fault:
        raise UserError(fault, where=str(adapter_folder), fix="merge with --dtype fp32, or keep the adapter apart")


def probe(model: PreTrainedModel) -> dict[str, Tensor]:
    """Random token ids, the same on every call, as keyword arguments of the model."""
    table = model.get_input_embeddings().get_parameter("weight")
    generator = torch.Generator().manual_seed(0)
    shape = (PROBE_ROWS, PROBE_LENGTH)
    ids = torch.randint(0, table.shape[0], shape, generator=generator).to(table.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids.flip(1)
    return inputs


def mean_kl(first: Tensor, second: Tensor) -> float:
    """``mean_t sum_v p_tv (log p_tv - log q_tv)`` of two [..., V] logits, in nats."""
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def outputs_of(loaded: Loaded, inputs: dict[str, Tensor]) -> Tensor:
    """What the model says, in double precision: the logits of its vocabulary, or of a classifier's classes."""
    if loaded.classifier is None:
        return logits_of(loaded.model, inputs)
    batch: Batch = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    with probing(loaded.model):
        return class_logits(loaded.model, loaded.classifier, batch).double()


@torch.no_grad()
def logits_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """The model's logits in evaluation mode, in double precision; its mode is put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return model(**inputs).logits.double()
    finally:
        for module, training in modes:
            module.training = training


def _write(loaded: Loaded, out: Path) -> str:
    """Write beside ``out`` and rename, so that a half-written model never has its name."""
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        read_by = ""
        if loaded.classifier is None:
            save_model(temporary, loaded.model)
        else:
            read_by = save_classifying_model(temporary, loaded)
        with disk_errors(out):
            loaded.tokenizer.save_pretrained(temporary)
            make_readable(temporary)
            if out.exists():
                out.rmdir()
            os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return read_by
