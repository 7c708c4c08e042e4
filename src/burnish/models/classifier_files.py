"""The files of a classification head, and the model folder in `transformers`' own class where it has one that is equal.

``classifier.json`` says what the head is and who can read it; ``classifier.safetensors`` holds its numbers. Both lie
beside the adapter or the model, and beside a `transformers` class too, which holds the numbers once more.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedModel

from burnish.core.errors import UserError
from burnish.core.files import disk_errors, write_atomic, write_json
from burnish.core.types import Batch
from burnish.models.classifier import Classifier, class_logits, describe, refuse_missing_pooler
from burnish.models.load import Loaded, pad_id
from burnish.models.probe import probe_ids, probing, tolerance
from burnish.models.quiet import quiet

DESCRIPTION, TENSORS = "classifier.json", "classifier.safetensors"
VERSION = 1


def save_classifier(folder: Path, classifier: Classifier, read_by: str) -> None:
    """Write a head's two files.

    Args:
        folder: Where.
        classifier: The head.
        read_by: Who can read model and head together, for people.
    """
    tensors = {name: p.detach().cpu().contiguous() for name, p in classifier.named_parameters()}
    write_atomic(folder / TENSORS, save(tensors, metadata={"format": "pt"}))
    write_json(folder / DESCRIPTION, {"version": VERSION, **describe(classifier), "read_by": read_by})


def has_classifier(folder: Path) -> bool:
    """Whether a head's files, or one of them, lie in a folder."""
    return any((folder / name).is_file() for name in (DESCRIPTION, TENSORS))


def read_classifier(folder: Path) -> Classifier:
    """Read a head.

    Raises:
        UserError: A file is missing or damaged, or they do not belong together.
    """
    fix = "copy the folder again; a head that is made anew would answer at chance"
    for name in (DESCRIPTION, TENSORS):
        if not (folder / name).is_file():
            raise UserError(f"the classification head is missing: there is no {name}", where=str(folder), fix=fix)
    try:
        values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
        made = Classifier(
            [str(label) for label in values["labels"]],
            int(values["width"]),
            values["pooling"],
            dropout=float(values["dropout"]),
            bias=bool(values["bias"]),
        )
        made.load_state_dict(tensors)
        made.temperature = float(values.get("temperature", 1.0))
        if not 0 < made.temperature < float("inf"):
            raise ValueError(f"a temperature of {made.temperature}")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"the classification head cannot be read: {reason}", where=str(folder), fix=fix) from None
    return made


def store_temperature(folder: Path, temperature: float) -> None:
    """Write another temperature into a head's description."""
    values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    write_json(folder / DESCRIPTION, {**values, "temperature": temperature})


def with_classifier(loaded: Loaded, classifier: Classifier) -> Loaded:
    """The model with a head beside it.

    Raises:
        UserError: The head is of another width, or reads a pooler that the model lacks.
    """
    width = loaded.model.config.get_text_config().hidden_size
    if classifier.weight.shape[1] != width:
        raise UserError(
            f"the classification head reads vectors of {classifier.weight.shape[1]} numbers, this model has {width}",
            where=loaded.path,
            fix="load the head with the model that it was trained on",
        )
    refuse_missing_pooler(loaded.model, classifier.pooling)
    return replace(loaded, classifier=classifier.to(loaded.model.device))


def save_classifying_model(folder: Path, loaded: Loaded) -> str:
    """Write a whole model with its head, in `transformers`' class where that gives equal logits; say who reads it."""
    assert loaded.classifier is not None
    theirs = as_transformers(loaded)
    model = theirs if theirs is not None else loaded.model
    with disk_errors(folder), quiet():
        model.save_pretrained(folder)
    reader = _reader(theirs, loaded.classifier)
    save_classifier(folder, loaded.classifier, reader)
    return reader


def _reader(theirs: PreTrainedModel | None, head: Classifier) -> str:
    if theirs is not None:
        return f"transformers reads it as {type(theirs).__name__} (AutoModelForSequenceClassification); Burnish too"
    return (
        f"transformers has no class for a head on `{head.pooling}` pooling of this architecture: read it with Burnish, "
        f"or apply {TENSORS} to the `{head.pooling}` pooling of AutoModel's hidden states"
    )


def as_transformers(loaded: Loaded) -> PreTrainedModel | None:
    """The model and its head as `transformers`' class for sequence classification; None where the logits differ.

    The class is built around the very same modules, so nothing is copied and ``loaded`` stays as it is.
    """
    head = loaded.classifier
    if head is None or type(loaded.model.config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return None
    config = copy.deepcopy(loaded.model.config)
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: i for i, label in enumerate(head.labels)}
    config.problem_type = "single_label_classification"
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = pad_id(loaded.tokenizer)
    cls = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    try:
        with torch.device("meta"), quiet():
            theirs = cls(config)
        name = next(n for n in ("score", "classifier") if isinstance(getattr(theirs, n, None), nn.Linear))
        setattr(theirs, theirs.base_model_prefix, loaded.model)
        setattr(theirs, name, _linear(head, loaded.model))
        theirs.eval()
        return theirs if _equal(theirs, loaded, config.pad_token_id) else None
    except (StopIteration, AttributeError, LookupError, TypeError, ValueError, RuntimeError):
        return None  # this class is built otherwise


def _linear(head: Classifier, model: PreTrainedModel) -> nn.Linear:
    linear = nn.Linear(head.weight.shape[1], len(head.labels), bias=head.bias is not None, device=model.device)
    linear.weight.data.copy_(head.weight.data)
    if head.bias is not None:
        linear.bias.data.copy_(head.bias.data)
    return linear.to(model.dtype)


def _equal(theirs: PreTrainedModel, loaded: Loaded, pad: int) -> bool:
    """Whether both give the same logits for a whole row and a padded one."""
    ids = probe_ids(loaded.model, 12).reshape(2, 6)
    ids = torch.where(ids == pad, (ids + 1) % max(2, loaded.model.config.get_text_config().vocab_size), ids)
    mask = torch.ones_like(ids)
    ids[1, 4:], mask[1, 4:] = pad, 0
    batch: Batch = {"input_ids": ids, "attention_mask": mask}
    assert loaded.classifier is not None
    with probing(loaded.model):
        own = class_logits(loaded.model, loaded.classifier, batch).double()
        other: Any = theirs(input_ids=ids, attention_mask=mask).logits.double()
    return own.shape == other.shape and bool((own - other).abs().max() <= tolerance(own, loaded.model))
