"""Burnish's own files: the description beside every saved set, tensors by name, and whole models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.adapters.base import RESERVED, MethodConfig
from burnish.core.errors import UserError
from burnish.core.files import disk_errors, write_atomic, write_json
from burnish.models.quiet import quiet

DESCRIPTION, TENSORS = "burnish.json", "adapter.safetensors"
VERSION = 1


def save_description(
    folder: Path,
    file_format: str,
    configs: Sequence[MethodConfig],
    base_path: str | None,
    origin: Mapping[str, Any] | None,
) -> None:
    """Write ``burnish.json``: the configurations as given, the format of the weights beside it, and their base."""
    write_json(
        folder / DESCRIPTION,
        {
            "version": VERSION,
            "format": file_format,
            "adapter": [config.model_dump(mode="json") for config in configs],
            "base": {"path": base_path, **(origin or {})},
        },
    )


def save_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name, in one safetensors file."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(folder / TENSORS, save(plain, metadata={"format": "pt"}))


def save_model(folder: Path, model: PreTrainedModel) -> None:
    """Write a whole model as ``transformers`` does, without anything that adapters added."""
    if not isinstance(model, PreTrainedModel):
        raise UserError(f"a {type(model).__name__} has no folder format", fix="use a `transformers` model")
    own = {name: t for name, t in model.state_dict().items() if RESERVED not in name.split(".")}
    with disk_errors(folder), quiet():
        model.save_pretrained(folder, state_dict=own)


def short_names(named: Sequence[tuple[str, nn.Parameter]], name: str) -> dict[str, Tensor]:
    """Parameters by their name without that of the set, which may be another when they are loaded."""
    inner = f".{RESERVED}.{name}."
    return {f".{full}".replace(inner, f".{RESERVED}.").lstrip("."): parameter for full, parameter in named}


@torch.no_grad()
def fill(named: Sequence[tuple[str, nn.Parameter]], name: str, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors of ``save_tensors`` into parameters.

    Raises:
        UserError: A tensor is missing, unexpected or of another shape. Nothing has been copied then.
    """
    wanted = short_names(named, name)
    fix = "load it onto the base that it was trained on, or save it again"
    missing, unexpected = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or unexpected:
        kind, first = ("missing", missing[0]) if missing else ("unexpected", unexpected[0])
        raise UserError(
            f"{len(missing or unexpected)} tensors are {kind}, the first is `{first}`", where=where, fix=fix
        )
    for key, parameter in wanted.items():
        if parameter.shape != tensors[key].shape:
            shapes = f"{tuple(tensors[key].shape)}, this model needs {tuple(parameter.shape)}"
            raise UserError(f"the adapter belongs to another base: `{key}` is {shapes}", where=where, fix=fix)
    for key, parameter in wanted.items():
        parameter.copy_(tensors[key])
