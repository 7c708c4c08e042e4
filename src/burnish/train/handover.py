"""What a run hands over, and opening it again: a run, an adapter folder, or any model."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol

import torch

from burnish.adapters import own_format
from burnish.adapters.attach import Attached, sets_of
from burnish.adapters.load import load as load_adapters
from burnish.core.config import build, read_yaml
from burnish.core.errors import UserError
from burnish.core.files import disk_errors, make_readable
from burnish.models.classifier_files import (
    has_classifier,
    read_classifier,
    save_classifier,
    save_classifying_model,
    with_classifier,
)
from burnish.models.config import ModelConfig
from burnish.models.generate import GenerateConfig
from burnish.models.generation_file import save_settings, stored_settings
from burnish.models.load import Loaded, load
from burnish.models.route import name_tasks
from burnish.ops.machine import default_device
from burnish.train.config import RunConfig
from burnish.train.folder import RECIPE, RunFolder, is_run, open_run, runs_beside
from burnish.train.precision import DTYPES

ADAPTER_FILES = ("burnish.json", "adapter_config.json")


class Trained(Protocol):
    """What is handed over of a run that was set up: its model, and what was trained of it."""

    @property
    def config(self) -> RunConfig:
        """The recipe."""

    @property
    def loaded(self) -> Loaded:
        """The model with its tokenizer."""

    @property
    def attached(self) -> Attached:
        """The adapters, or the trained weights."""


def hand_over(setup: Trained, folder: RunFolder) -> Path:
    """Write the weights as they are now to ``final/``, with the tokenizer and its chat template."""
    loaded = setup.loaded
    with disk_errors(folder.final):
        for leftover in folder.path.glob(".final-*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.path, prefix=".final-"))
        setup.attached.save(temporary, base_path=loaded.path, origin=loaded.origin)
        loaded.tokenizer.save_pretrained(temporary)
        save_head(temporary, loaded, whole=setup.attached.trains_base)
        if loaded.classifier is None:
            save_settings(temporary, loaded.model, setup.config.evaluate.generate)
        make_readable(temporary)
        shutil.rmtree(folder.final, ignore_errors=True)
        os.replace(temporary, folder.final)
    return folder.final


def write_export(path: Path, loaded: Loaded, config: RunConfig) -> Path:
    """Write an opened run's model as it is now: its adapters, or all of it where its own weights were trained.

    Args:
        path: The folder; one that is there is replaced.
        loaded: What ``load_handed_over`` gave.
        config: The run's recipe.
    """
    sets = sets_of(loaded.model)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        if sets:
            sets[-1].save(temporary, base_path=config.model.path, origin=loaded.origin)
        else:
            own_format.save_model(temporary, loaded.model)
            own_format.save_description(temporary, "model", config.adapters, config.model.path, loaded.origin)
        loaded.tokenizer.save_pretrained(temporary)
        save_head(temporary, loaded, whole=not sets)
        if loaded.classifier is None:
            save_settings(temporary, loaded.model, config.evaluate.generate)
        make_readable(temporary)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    return path


def save_head(folder: Path, loaded: Loaded, *, whole: bool) -> None:
    """Write the head of a classification beside its adapter, or into its model where `transformers` can express it."""
    if loaded.classifier is None:
        return
    if whole:
        save_classifying_model(folder, loaded)
        return
    base = loaded.origin["path"]
    save_classifier(folder, loaded.classifier, f"Burnish, with the adapter in this folder on the base {base}")


def load_handed_over(path: Path, *, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Loaded:
    """The tuned model of a run: its base with the adapter attached, or the model that full tuning made.

    Args:
        path: The run folder.
        dtype: Format of the weights; without it the one that the run computed in.
        device: Where it goes; without it the fastest one here.

    Raises:
        UserError: There is no run, or it has not handed anything over yet.
    """
    folder = open_run(path)
    if not folder.final.is_dir():
        fix = f"finish it first: `burnish resume {path}`"
        raise UserError("this run has not handed over a model yet", where=str(folder.final), fix=fix)
    config = read_recipe(folder)
    if config.classifies and not has_classifier(folder.final):
        raise UserError(
            "the classification head of this run is missing; a new one would answer at chance",
            where=str(folder.final),
            fix="copy the whole folder again, or write it again with `burnish resume`",
        )
    computes = (folder.read("model.json") or {}).get("precision", {}).get("compute", "fp32")
    return _open(folder.final, config.model, dtype or DTYPES[computes], device)


def open_model(text: str, *, dtype: torch.dtype | None = None) -> Loaded:
    """Open whatever a person names: a run folder, an adapter folder, a model folder, GGUF file or hub name.

    Raises:
        UserError: It is none of these.
    """
    path = Path(text)
    if is_run(path):
        return load_handed_over(path, dtype=dtype)
    if has_classifier(path):
        return _open(path, None, dtype or torch.float32)
    if any((path / name).is_file() for name in ADAPTER_FILES):
        return _open(path, None, dtype or torch.float32)
    try:
        return _on_device(load(ModelConfig(path=text), dtype or torch.float32, verify=False))
    except UserError as error:
        beside = "" if path.exists() else runs_beside(path)  # a mistyped run looks like a name of the hub
        if not beside:
            raise
        raise UserError(error.what, where=error.where, fix=f"{beside}; or {error.fix}") from error


def settings_of(text: str) -> GenerateConfig:
    """How whatever ``open_model`` opens is to write: as it was stored with it, else by the defaults."""
    path = Path(text)
    return stored_settings(RunFolder(path).final if is_run(path) else path) or GenerateConfig()


def read_recipe(folder: RunFolder) -> RunConfig:
    """The resolved recipe of a run. The folder may have been moved since: it is where it is found now."""
    path = folder.path / RECIPE
    values = read_yaml(path)
    values.update(output=str(folder.path.resolve().parent), name=folder.path.resolve().name)
    return build(RunConfig, values, where=str(path))


def _open(folder: Path, model: ModelConfig | None, dtype: torch.dtype, device: torch.device | None = None) -> Loaded:
    head = read_classifier(folder) if has_classifier(folder) else None
    whole = (folder / "config.json").is_file()
    named = _named(model, str(folder)) if whole else model or base_config(folder)
    loaded = load(named, dtype, verify=False, headless=head is not None)
    if head is not None:
        loaded = with_classifier(loaded, head)
    if not whole:
        load_adapters(folder, loaded.model)
    name_tasks(loaded.model, head.class_tasks if head is not None else ())
    return _on_device(loaded, device)


def _named(model: ModelConfig | None, path: str) -> ModelConfig:
    """The recipe's safety settings with another path; the tokenizer in the folder has its chat template already."""
    return model.model_copy(update={"path": path, "chat_template": None}) if model else ModelConfig(path=path)


def base_of(folder: Path) -> str:
    """The base that an adapter folder names: Burnish's own note first, then that of `peft`."""
    own, peft = (read_json(folder / name) for name in ADAPTER_FILES)
    path = own.get("base", {}).get("path") or peft.get("base_model_name_or_path")
    if not path:
        raise UserError(
            "the adapter does not say which base it belongs to", where=str(folder), fix="name the run folder"
        )
    return str(path)


def base_config(folder: Path) -> ModelConfig:
    """The base that an adapter folder names, kept in 4 bits where it was trained on such a one."""
    quantized = read_json(folder / ADAPTER_FILES[0]).get("base", {}).get("quantization") or {}
    values = {"path": base_of(folder), "quantization": quantized.get("settings")}
    return build(ModelConfig, values, where=str(folder / ADAPTER_FILES[0]))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _on_device(loaded: Loaded, device: torch.device | None = None) -> Loaded:
    loaded.model.to(device or default_device())  # type: ignore[arg-type]
    if loaded.classifier is not None:
        loaded.classifier.to(loaded.model.device)
    loaded.model.eval()
    return loaded
