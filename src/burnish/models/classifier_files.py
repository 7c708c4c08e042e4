"""The files of a classification head, and the model folder in `transformers`' own class where it has one that is equal.

``classifier.json`` says what the head is and who can read it; ``classifier.safetensors`` holds its numbers. Both lie
beside the adapter or the model, and beside a `transformers` class too, which holds the numbers once more.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn
from transformers import (
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    PreTrainedModel,
)

from burnish.core.errors import UserError
from burnish.core.files import disk_errors, write_atomic, write_json
from burnish.core.types import Batch
from burnish.models.classifier import CLASSIFICATION, Classifier, class_logits, describe, refuse_missing_pooler
from burnish.models.load import Loaded, pad_id
from burnish.models.probe import probe_ids, probing, tolerance
from burnish.models.quiet import quiet

DESCRIPTION, TENSORS = "classifier.json", "classifier.safetensors"
VERSION = 1


@dataclass(frozen=True)
class Theirs:
    """The classes of `transformers` that a kind of head can become.

    Attributes:
        classes: From a model's configuration to the class.
        auto: Its name for all architectures.
        heads: Where the class may keep the linear layer.
        problem: Its name for what the logits mean.
        outputs: The fields of its output that hold the logits; several are put behind one another as classes.
    """

    classes: Mapping[Any, Any]
    auto: str
    heads: tuple[str, ...] = ("score", "classifier")
    problem: str | None = None
    outputs: tuple[str, ...] = ("logits",)


_SEQUENCES = (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, "AutoModelForSequenceClassification", ("score", "classifier"))
THEIRS: Mapping[str, Theirs] = {
    CLASSIFICATION: Theirs(*_SEQUENCES, problem="single_label_classification"),
    "multi-label": Theirs(*_SEQUENCES, problem="multi_label_classification"),
    "regression": Theirs(*_SEQUENCES, problem="regression"),
    "ranking": Theirs(*_SEQUENCES, problem="regression"),
    "token-classification": Theirs(MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING, "AutoModelForTokenClassification"),
    "extractive-qa": Theirs(
        MODEL_FOR_QUESTION_ANSWERING_MAPPING,
        "AutoModelForQuestionAnswering",
        ("qa_outputs",),
        outputs=("start_logits", "end_logits"),
    ),
}


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
            task=str(values.get("task", CLASSIFICATION)),
            settings=dict(values.get("settings") or {}),
            class_tasks=[str(task) for task in values.get("class_tasks") or ()],
        )
        if made.class_tasks and len(made.class_tasks) != len(made.labels):
            raise ValueError(f"{len(made.class_tasks)} tasks for {len(made.labels)} classes")
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
    tasks = ", ".join(dict.fromkeys(head.class_tasks))
    own = f"; its classes are those of several tasks ({tasks}): take the softmax over those of one" if tasks else ""
    return _class_of(theirs, head) + own


def _class_of(theirs: PreTrainedModel | None, head: Classifier) -> str:
    if theirs is not None:
        return f"transformers reads it as {type(theirs).__name__} ({THEIRS[head.task].auto}); Burnish too"
    return (
        f"transformers has no class for a head on `{head.pooling}` pooling of this architecture: read it with Burnish, "
        f"or apply {TENSORS} to the `{head.pooling}` pooling of AutoModel's hidden states"
    )


def as_transformers(loaded: Loaded) -> PreTrainedModel | None:
    """The model and its head as `transformers`' class for its task; None where the logits differ.

    The class is built around the very same modules, so nothing is copied and ``loaded`` stays as it is.
    """
    head = loaded.classifier
    form = THEIRS.get(head.task) if head is not None else None
    if head is None or form is None or type(loaded.model.config) not in form.classes:
        return None
    config = copy.deepcopy(loaded.model.config)
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: i for i, label in enumerate(head.labels)}
    if form.problem:
        config.problem_type = form.problem
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = pad_id(loaded.tokenizer)
    cls = form.classes[type(config)]
    try:
        with torch.device("meta"), quiet():
            theirs = cls(config)
        if theirs.base_model_prefix != loaded.model.base_model_prefix:
            return None  # AutoModel, and so Burnish, would not find the weights below another name
        name = next(n for n in form.heads if isinstance(getattr(theirs, n, None), nn.Linear))
        setattr(theirs, theirs.base_model_prefix, loaded.model)
        ours = _linear(head, loaded.model)
        if (ours.bias is None) != (getattr(theirs, name).bias is None):
            return None  # it would be lost when their class is loaded again
        setattr(theirs, name, ours)
        theirs.eval()
        return theirs if _equal(theirs, form, loaded, config.pad_token_id) else None
    except (StopIteration, AttributeError, LookupError, TypeError, ValueError, RuntimeError):
        return None  # this class is built otherwise


def _linear(head: Classifier, model: PreTrainedModel) -> nn.Linear:
    """The head as a layer; of a score in standard deviations one that gives the score itself."""
    linear = nn.Linear(head.weight.shape[1], len(head.labels), bias=head.bias is not None, device=model.device)
    scale, shift = unit_of(head)
    linear.weight.data.copy_(head.weight.data * scale)
    if linear.bias is not None and head.bias is not None:
        linear.bias.data.copy_(head.bias.data * scale + shift)
    return linear.to(model.dtype)


def unit_of(head: Classifier) -> tuple[float, float]:
    """What a head's numbers are multiplied by, and what is added then, to be in the unit of its rows."""
    return float(head.settings.get("deviation", 1.0)), float(head.settings.get("mean", 0.0))


def _equal(theirs: PreTrainedModel, form: Theirs, loaded: Loaded, pad: int) -> bool:
    """Whether both give the same logits for a whole row and a padded one."""
    ids = probe_ids(loaded.model, 12).reshape(2, 6)
    ids = torch.where(ids == pad, (ids + 1) % max(2, loaded.model.config.get_text_config().vocab_size), ids)
    mask = torch.ones_like(ids)
    ids[1, 4:], mask[1, 4:] = pad, 0
    batch: Batch = {"input_ids": ids, "attention_mask": mask}
    assert loaded.classifier is not None
    with probing(loaded.model):
        own = class_logits(loaded.model, loaded.classifier, batch).double()
        said: Any = theirs(input_ids=ids, attention_mask=mask)
    parts = [getattr(said, name).double() for name in form.outputs]
    other = parts[0] if len(parts) == 1 else torch.stack(parts, dim=-1)
    scale, shift = unit_of(loaded.classifier)
    own = own * scale + shift
    real = mask.bool() if own.dim() == 3 else ...
    return own.shape == other.shape and bool((own - other)[real].abs().max() <= tolerance(own, loaded.model))
