"""Burnish on the classification, through its own loop, with the head that the peers' models have.

That head is the encoder's pooler, dropout and one linear map, trained at the learning rate of all the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from measure import held_out_classes, read_job
from ours import Logits, arguments, recipe, run

from burnish.core.types import Batch
from burnish.models.classifier import class_logits
from burnish.train.setup import Setup


def classes(setup: Setup) -> Logits:
    """Logits of the head, from ids [1, T] to [1, classes]."""
    model, head = setup.loaded.model, setup.loaded.classifier
    return lambda ids: class_logits(model, head, Batch(input_ids=ids, attention_mask=torch.ones_like(ids)))


def recipe_of_classes(folder: Path, job: dict[str, Any], precision: str = "auto") -> dict[str, Any]:
    """The settings of a classification, with the head of the peers' models."""
    task = {"kind": "classification", "labels": job["labels"], "pooling": "pooler", "dropout": 0.1}
    return {**recipe(folder, job, precision), "task": {**task, "head_rate_scale": 1.0}}


def main() -> None:
    """The job of classes."""
    given = arguments(__doc__)
    job = read_job(given.folder)
    run(recipe_of_classes(given.folder, job, given.precision), given.folder, held_out_classes, classes)


if __name__ == "__main__":
    main()
