"""What the original model says of the training rows, on disk: the likeliest tokens of every position.

Shapes: S positions of all rows, K kept tokens.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from burnish.core.errors import UserError
from burnish.core.files import disk_errors
from burnish.core.types import Batch
from burnish.ops.cross_entropy import chunk_rows
from burnish.regularizers.base import Subject
from burnish.regularizers.places import places
from burnish.regularizers.teacher import Teacher

_NOTE, _IDS, _LOG_PROBS, _OFFSETS = "distill.json", "ids.npy", "log_probs.npy", "offsets.npy"


@dataclass(frozen=True)
class Cache:
    """Tokens and log-probabilities by row, mapped from files.

    Attributes:
        ids: [S, K] the likeliest tokens of each position.
        log_probs: [S, K] their log-probabilities, fp32.
        offsets: [rows + 1] where each row's positions begin.
    """

    ids: NDArray[np.int32]
    log_probs: NDArray[np.float32]
    offsets: NDArray[np.int64]

    @classmethod
    def ready(cls, path: str, top_k: int, temperature: float, positions: str, subject: Subject) -> Cache:
        """The cache in a folder; made now if it is not there.

        Raises:
            UserError: What is there was made of other rows, by another model or with other settings.
        """
        folder = Path(path)
        wanted = {
            "top_k": top_k,
            "temperature": temperature,
            "positions": positions,
            "rows": subject.table.content_hash(),
            "model": subject.origin.get("sha256"),
        }
        if (folder / _NOTE).is_file():
            found = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
            other = [name for name, value in wanted.items() if found.get(name) != value]
            if other:
                raise UserError(
                    f"the cache was made with another {', '.join(other)}",
                    where=f"regularizers: distill: cache: {folder}",
                    fix="name another folder, or remove this one",
                )
            return cls.open(folder)
        if folder.exists() and any(folder.iterdir()):
            where = f"regularizers: distill: cache: {folder}"
            raise UserError("the folder holds something that is no cache", where=where, fix="name another one")
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
            try:
                _fill(made, top_k, temperature, positions, subject)
                (made / _NOTE).write_text(json.dumps(wanted, indent=2), encoding="utf-8")
                if folder.exists():
                    folder.rmdir()
                os.replace(made, folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Cache:
        """Map the files of a folder."""
        return cls(*(np.load(folder / name, mmap_mode="r") for name in (_IDS, _LOG_PROBS, _OFFSETS)))

    def rows(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tokens and log-probabilities [N, K] of these rows' positions, row after row."""
        parts = [slice(int(self.offsets[n]), int(self.offsets[n + 1])) for n in numbers]
        found = (np.concatenate([array[part] for part in parts]) for array in (self.ids, self.log_probs))
        ids, log_probs = (torch.from_numpy(array) for array in found)
        return ids, log_probs


def _fill(folder: Path, top_k: int, temperature: float, positions: str, subject: Subject) -> None:
    teacher = Teacher.of(subject.model, subject.head, own=False)  # before the first update every model is the original
    if top_k >= subject.model.config.get_text_config().vocab_size:
        raise UserError(
            f"top_k {top_k} is the whole vocabulary", where="regularizers: distill: top_k", fix="use a smaller number"
        )
    kept: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}
    for plain in subject.micro_batches(subject.table, range(len(subject.table))):
        batch = subject.moved(plain)
        with subject.computing():
            chosen = places(batch, positions)
            found = _likeliest(teacher, teacher.hidden(batch)[chosen], top_k, temperature)
        sizes = _sizes(batch, chosen)
        for row, ids, log_probs in zip(
            batch["row_ids"], *(np.split(f, np.cumsum(sizes)[:-1]) for f in found), strict=True
        ):
            kept[int(row)] = (ids, log_probs)
    ordered = [kept[row] for row in range(len(kept))]
    np.save(folder / _IDS, np.concatenate([ids for ids, _ in ordered]))
    np.save(folder / _LOG_PROBS, np.concatenate([values for _, values in ordered]))
    np.save(folder / _OFFSETS, np.cumsum([0, *(len(ids) for ids, _ in ordered)]))


def _sizes(batch: Batch, chosen: Tensor) -> list[int]:
    """How many positions each row has."""
    if "segment_lengths" in batch:
        return [int(part.sum()) for part in chosen[0].split(list(batch["segment_lengths"]))]
    return [int(count) for count in chosen.sum(1)]


@torch.no_grad()
def _likeliest(teacher: Teacher, hidden_ND: Tensor, top_k: int, temperature: float) -> tuple[Any, Any]:
    assert teacher.head is not None
    ids, values = [], []
    for hidden in hidden_ND.split(chunk_rows(teacher.head.weight)):
        log_probs = torch.log_softmax(teacher.logits(hidden).float() / temperature, dim=-1)
        best = log_probs.topk(top_k, dim=-1)
        ids.append(best.indices.int().cpu())
        values.append(best.values.cpu())
    return torch.cat(ids).numpy(), torch.cat(values).numpy()
