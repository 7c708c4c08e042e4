"""The files of the `peft` library: adapter_config.json and adapter_model.safetensors, written and read by our own code.

Beside them lies `burnish.json` with the configuration as the recipe gave it; `peft` takes no notice of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from burnish.adapters.base import METHODS, RESERVED, MethodConfig, Placed
from burnish.core.errors import UserError
from burnish.core.files import write_atomic, write_json
from burnish.core.names import suggestion
from burnish.models.anatomy import Site, sites

CONFIG, WEIGHTS, OWN = "adapter_config.json", "adapter_model.safetensors", "burnish.json"
PREFIX = "base_model.model."
OUTSIDE = "base_model."
"""What the names of tensors begin with that belong to no module of the model, such as projections that all share."""


def save(
    folder: Path, model: PreTrainedModel, config: MethodConfig, placed: tuple[Placed, ...], base_path: str | None
) -> None:
    """Write one method's adapters so that `peft` loads them.

    Args:
        folder: Where; it is made if it does not exist.
        model: The model that carries them.
        config: The method's configuration.
        placed: Adapters and their sites.
        base_path: Folder or hub name of the base, for ``base_model_name_or_path``.
    """
    entry = METHODS[config.method]
    if entry.write_peft is not None:
        entry.write_peft(folder, config, placed, base_path)
        return
    assert entry.to_peft is not None
    values, tensors = entry.to_peft(config, placed)
    shared: dict[str, Any] = {
        "peft_type": entry.peft_type,
        "task_type": task_type(model),
        "base_model_name_or_path": base_path,
        "revision": None,
        "inference_mode": True,
    }
    if not entry.bare:
        shared["target_modules"] = compact_names(model, [item.site.name for item in placed])
    prefix = "" if entry.bare else PREFIX
    contiguous = {
        key if key.startswith(OUTSIDE) else prefix + key: tensor.detach().cpu().contiguous()
        for key, tensor in tensors.items()
    }
    write_atomic(folder / WEIGHTS, save_tensors(contiguous, metadata={"format": "pt"}))
    write_json(folder / CONFIG, {**shared, **values})


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: It is missing or is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        shown = f"the folder holds: {', '.join(found[:8])}" if found else "the folder is missing or empty"
        raise UserError(
            f"there is no {path.name}", where=str(path.parent), fix=f"name an adapter folder; {shown}"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name} cannot be read: {error}", where=str(path), fix="save the adapter again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path.name} is not a JSON object", where=str(path), fix="save the adapter again")
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: It is missing or damaged.
    """
    try:
        return load_tensors(path.read_bytes())
    except FileNotFoundError:
        pickled = path.parent / "adapter_model.bin"
        fix = (
            "convert it with `peft`: load it there and save it again" if pickled.exists() else "save the adapter again"
        )
        what = f"there is no {path.name}" + (", only a pickle, which is not read" if pickled.exists() else "")
        raise UserError(what, where=str(path.parent), fix=fix) from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path.name} is damaged: {error}", where=str(path), fix="save or copy it again") from None


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors of an adapter folder, names without `peft`'s prefix.

    What layers share (VeRA's matrices) has no place in the model and keeps the shorter prefix that it has.

    Raises:
        UserError: A file is missing or damaged, or a tensor has no such prefix.
    """
    values, tensors = read_json(folder / CONFIG), read_tensors(folder / WEIGHTS)
    bare = {METHODS[name].peft_type for name in METHODS if METHODS[name].bare}
    if values.get("peft_type") in bare:
        return values, tensors
    foreign = [key for key in tensors if not key.startswith(OUTSIDE)]
    if foreign:
        raise UserError(
            f"unexpected tensor `{foreign[0]}`: its name does not begin with `{PREFIX}`",
            where=str(folder / WEIGHTS),
            fix="save the adapter with `peft` or Burnish",
        )
    return values, {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}


def refuse_unread(values: Mapping[str, Any], harmless: Mapping[str, Sequence[Any]], method: str) -> None:
    """Refuse a configuration that asks for what would change the outputs and is not read here.

    Args:
        values: Of `peft`.
        harmless: The values that change nothing, by key.
        method: The method as people call it.

    Raises:
        UserError: There is another value.
    """
    for key, known in harmless.items():
        if key in values and values[key] not in known:
            raise UserError(
                f"the adapter uses `{key}: {values[key]!r}`, which Burnish's {method} does not read",
                where=CONFIG,
                fix="load it with `peft`, or merge it there first",
            )


def refuse_misfit(site: Site, tensors: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int]]) -> None:
    """Refuse the tensors of an adapter that was trained on another base.

    Args:
        site: Where it sits.
        tensors: By our name.
        wanted: The shape of each on this base.

    Raises:
        UserError: One has another shape.
    """
    for key, tensor in tensors.items():
        if tuple(tensor.shape) != tuple(wanted[key]):
            raise UserError(
                f"the adapter belongs to another base: {key} of `{site.name}` is {tuple(tensor.shape)}, "
                f"this model needs {tuple(wanted[key])}",
                where=WEIGHTS,
                fix="load the adapter onto the base that its adapter_config.json names",
            )


def split_tensors(
    model: PreTrainedModel, tensors: Mapping[str, Tensor], suffixes: Mapping[str, str], values: Mapping[str, Any]
) -> list[tuple[Site, dict[str, Tensor]]]:
    """Sort tensors by site, and hold them against the model and the configuration; nothing may be missing or left over.

    Args:
        model: The model they are for.
        tensors: Tensors by ``SITE.SUFFIX``.
        suffixes: From a tensor's suffix to the adapter's parameter; every site must have each parameter once.
        values: `peft`'s configuration, whose targets say which sites there must be.

    Returns:
        Each site, in the model's order, with its tensors by parameter.

    Raises:
        UserError: A tensor is missing or unexpected, or the model has no such module.
    """
    by_site: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        suffix = next((s for s in suffixes if key.endswith("." + s)), None)
        if suffix is not None:
            by_site.setdefault(key[: -len(suffix) - 1], {})[suffixes[suffix]] = tensor
        elif not _is_copy_of_base(model, key, tensor):
            raise UserError(
                f"unexpected tensor `{PREFIX}{key}`",
                where=WEIGHTS,
                fix="load it with `peft`, or save the adapter again",
            )
    known = {site.name: site for site in sites(model)}
    modules = dict(base_modules(model))
    strangers = sorted(set(by_site) - set(modules))
    if strangers:
        raise UserError(
            f"the adapter belongs to another base: this model has no module `{strangers[0]}`"
            + (f" (nor {len(strangers) - 1} others)" if len(strangers) > 1 else ""),
            where=WEIGHTS,
            fix=suggestion(strangers[0], by_site.keys() & modules.keys() or modules.keys()),
        )
    wanted = {name for name in modules if is_target(model, name, values)} | set(by_site)
    missing = [
        f"{n}.{p}" for n in sorted(wanted) for p in sorted(set(suffixes.values())) if p not in by_site.get(n, {})
    ]
    if missing:
        raise UserError(
            f"{len(missing)} tensors are missing, the first is {missing[0].rpartition('.')[2]} of "
            f"`{missing[0].rpartition('.')[0]}`",
            where=WEIGHTS,
            fix="save the adapter again, or load it onto the base it was trained on",
        )
    return [
        (known.get(n) or Site(name=n, role="linear", host=modules[n], layer=None), by_site[n])
        for n in modules
        if n in by_site
    ]


def _is_copy_of_base(model: PreTrainedModel, key: str, tensor: Tensor) -> bool:
    """`peft` saves embeddings and head along when they are targets; a copy that equals the base changes nothing."""
    try:
        own = model.get_parameter(key.replace(".base_layer", ""))
    except AttributeError:
        return False
    return own.shape == tensor.shape and torch.equal(own.detach().cpu(), tensor.to(own.dtype))


def base_modules(model: PreTrainedModel) -> Iterable[tuple[str, nn.Module]]:
    """The model's own modules by name, without those of adapters."""
    return ((n, m) for n, m in model.named_modules() if n and RESERVED not in n.split("."))


def is_target(model: PreTrainedModel, name: str, values: Mapping[str, Any]) -> bool:
    """Whether `peft` would put an adapter on the module ``name`` under this configuration."""
    targets, excluded = values.get("target_modules"), values.get("exclude_modules")
    if excluded and _matches(excluded, name):
        return False
    if targets == "all-linear":
        host = model.get_submodule(name)
        find_head = getattr(model, "get_output_embeddings", None)
        head = find_head() if callable(find_head) else None
        return isinstance(host, (nn.Linear, Conv1D)) and host is not head
    if not targets or not _matches(targets, name):
        return False
    layers = values.get("layers_to_transform")
    if layers is None or isinstance(targets, str):
        return True
    pattern = values.get("layers_pattern") or r"[^.]*"
    patterns = [pattern] if isinstance(pattern, str) else pattern
    found = next((m for p in patterns if (m := re.match(rf"(?:^|.*?\.){p}\.(\d+)\.", name))), None)
    return found is not None and int(found.group(1)) in ([layers] if isinstance(layers, int) else layers)


def _matches(targets: str | Sequence[str], name: str) -> bool:
    """`peft`'s rule: a string is a pattern for the whole name; a list holds names or their dotted endings."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == t or name.endswith("." + t) for t in targets)


def compact_names(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """``target_modules`` for exactly these modules: their last names where those say no more, else the full names."""
    chosen = set(names)
    endings = sorted({name.rpartition(".")[2] for name in names})
    hit = {name for name, _ in base_modules(model) if _matches(endings, name)}
    return endings if hit == chosen else sorted(chosen)


def task_type(model: PreTrainedModel) -> str | None:
    """`peft`'s name of what the model does, None where it has none."""
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return "SEQ_2_SEQ_LM"
    can_generate = getattr(model, "can_generate", None)
    return "CAUSAL_LM" if callable(can_generate) and can_generate() else None
