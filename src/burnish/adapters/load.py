"""Loading a saved set of adapters onto a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from burnish.adapters import own_format, peft_format
from burnish.adapters.attach import Attached, install
from burnish.adapters.base import MethodConfig
from burnish.adapters.registry import METHODS
from burnish.core.config import build
from burnish.core.errors import UserError


def load(folder: Path, model: PreTrainedModel, *, name: str = "default") -> Attached:
    """Put a saved set on ``model``: one that Burnish wrote, or an adapter folder of `peft`.

    Args:
        folder: Folder with ``burnish.json`` or ``adapter_config.json``.
        model: The base that the adapters were trained on.
        name: Name of the set on this model.

    Raises:
        UserError: A file is missing or damaged, the adapters are for another base, a tensor is missing or unexpected,
            or the folder holds a whole model. The model is unchanged then.
    """
    described = (folder / own_format.DESCRIPTION).is_file()
    description = peft_format.read_json(folder / own_format.DESCRIPTION) if described else {"format": "peft"}
    if not described and not (folder / peft_format.CONFIG).is_file() and (folder / "config.json").is_file():
        description = {"format": "model"}
    if description.get("format") == "model":
        raise UserError(
            "the folder holds a whole model, not adapters", where=str(folder), fix="give it as the model itself"
        )
    readers = {"peft": _load_peft, "burnish": _load_own}
    if description.get("format") not in readers:
        raise UserError(
            f"unknown format `{description.get('format')}`", where=str(folder), fix="update Burnish, or save it again"
        )
    return readers[description["format"]](folder, model, name, description)


def _load_peft(folder: Path, model: PreTrainedModel, name: str, description: Mapping[str, Any]) -> Attached:
    values, tensors = peft_format.read(folder)
    kinds = {entry.peft_type: entry.from_peft for n in METHODS if (entry := METHODS[n]).from_peft is not None}
    reader = kinds.get(values.get("peft_type"))
    if reader is None and values.get("peft_type"):
        reader = METHODS[f"peft:{values['peft_type']}"].from_peft  # refuses by name what cannot be read
    if reader is None:
        raise UserError(
            f"adapters of the kind `{values.get('peft_type')}` cannot be read",
            where=str(folder / peft_format.CONFIG),
            fix=f"known: {', '.join(sorted(str(k) for k in kinds))}; load it with `peft` and merge it there",
        )
    given = _configs(folder, description)
    if given:
        values[peft_format.OWN] = given[0]
    try:
        config, parts = reader(model, values, tensors)
    except UserError as error:
        where = str(folder / error.where) if error.where.startswith("adapter_") else str(folder)
        raise UserError(error.what, where=where, fix=error.fix) from None
    if given and _agrees(given[0], config):
        config = given[0]
    return install(model, (config,), (parts,), name)


def _load_own(folder: Path, model: PreTrainedModel, name: str, description: Mapping[str, Any]) -> Attached:
    tensors = peft_format.read_tensors(folder / own_format.TENSORS)
    configs = _configs(folder, description)
    parts = tuple(METHODS[c.method].build(model, c, 0) for c in configs)
    attached = install(model, configs, parts, name)
    try:
        own_format.fill(attached.trainable(), name, tensors, str(folder / own_format.TENSORS))
    except UserError:
        attached._remove()
        raise
    return attached


def _configs(folder: Path, description: Mapping[str, Any]) -> tuple[MethodConfig, ...]:
    where = str(folder / own_format.DESCRIPTION)
    return tuple(
        build(METHODS[str(values.get("method"))].config, values, where=where)
        for values in description.get("adapter", ())
    )


def _agrees(given: MethodConfig, read: MethodConfig) -> bool:
    """Whether both say the same but for how the targets are written; edited files fall back on what `peft` would do."""
    if type(given) is not type(read):
        return False
    own_rule = getattr(given, "agrees", None)
    if own_rule is not None:
        return bool(own_rule(read))
    resolved = [getattr(config, "resolved_alpha", None) for config in (given, read)]
    skipped = {"targets", "feedforward", "alpha", *METHODS[given.method].unsaid}
    return resolved[0] == resolved[1] and given.model_dump(exclude=skipped) == read.model_dump(exclude=skipped)
