"""Bring a located model to a folder on this machine: check a local one, look a hub name up, convert a GGUF once."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import huggingface_hub
from huggingface_hub import constants, snapshot_download
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from burnish.core.errors import UserError
from burnish.core.files import disk_errors, sha256
from burnish.models.config import ModelConfig
from burnish.models.gguf import convert
from burnish.models.locate import Location, locate

_SETTINGS = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_HASH_LIMIT = 2 << 30  # bytes; larger weights are told apart by size, head and tail


@dataclass(frozen=True)
class Fetched:
    """A folder that `transformers` can load from.

    Attributes:
        folder: The folder.
        name: What names the model elsewhere: the hub name, or the folder.
        safetensors: Whether the weights are safetensors; False is pickle, which the recipe has allowed.
        origin: What is known of the source, in JSON values.
    """

    folder: Path
    name: str
    safetensors: bool
    origin: dict[str, Any] = field(default_factory=dict)


def fetch(config: ModelConfig, base: Path | None = None, *, weights: bool = True) -> Fetched:
    """The folder of the model that a recipe names, checked against its safety settings.

    Args:
        config: The model's section of the recipe.
        base: Folder of the recipe.
        weights: Whether weights are needed; without them a hub model brings its small files only.

    Raises:
        UserError: Not found; weights in pickle files, or code of the model's own, that the recipe does not allow.
    """
    location = locate(config.path, base)
    if location.kind == "hub":
        folder, name, origin = _from_hub(config, weights)
    elif location.kind == "gguf":
        folder, origin = convert(Path(location.path))
        name = str(folder)
    else:
        folder, name, origin = Path(location.path), str(Path(location.path).resolve()), {}
    _refuse_code(folder, config)
    safetensors = _has_safetensors(folder, config, location) if weights else True
    if weights and location.kind == "folder":
        origin = fingerprint(folder)
    return Fetched(folder, name, safetensors, {"kind": location.kind, **origin})


def fingerprint(folder: Path) -> dict[str, Any]:
    """What tells these weights from others: ``sha256`` of all weight files, or ``fingerprint`` if they exceed 2 GiB.

    The fingerprint hashes the size and the first and last MiB of every file.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(p for pattern in _PICKLES for p in folder.glob(pattern))
    total = sum(p.stat().st_size for p in files)
    if len(files) == 1 and total <= _HASH_LIMIT:
        return {"sha256": sha256(files[0]), "bytes": total}
    digest = hashlib.sha256()
    for path in files:
        part = sha256(path) if total <= _HASH_LIMIT else _ends(path)
        digest.update(f"{path.name} {part}\n".encode())
    return {"sha256" if total <= _HASH_LIMIT else "fingerprint": digest.hexdigest(), "bytes": total}


def _ends(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1 << 20)
        file.seek(max(0, size - (1 << 20)))
        return hashlib.sha256(str(size).encode() + head + file.read(1 << 20)).hexdigest()


def _refuse_code(folder: Path, config: ModelConfig) -> None:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"`config.json` cannot be read: {error}", where=str(folder), fix="mend or fetch it again"
        ) from None
    if config.trust_remote_code or not isinstance(values, dict):
        return
    if values.get("auto_map") and values.get("model_type") not in CONFIG_MAPPING:
        raise UserError(
            f"the model brings its own Python code (`auto_map` for `{values.get('model_type')}`), which would run here",
            where=str(folder / "config.json"),
            fix="read that code, then set `model.trust_remote_code: true`",
        )


def _has_safetensors(folder: Path, config: ModelConfig, location: Location) -> bool:
    if any(folder.glob("*.safetensors")):
        return True
    pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
    if not pickles:
        raise UserError("there are no weights: no `*.safetensors` file", where=f"{location.shown} ({folder})")
    if not config.allow_pickle:
        raise UserError(
            f"the weights are pickle files ({pickles[0]}), which can run code when they are read",
            where=str(folder),
            fix="convert them to safetensors, or set `model.allow_pickle: true` if you trust their source",
        )
    return False


def _from_hub(config: ModelConfig, weights: bool) -> tuple[Path, str, dict[str, Any]]:
    offline = constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT)
    patterns: Sequence[str] = [*_SETTINGS, *(["*.py"] if config.trust_remote_code else [])]
    if weights:
        patterns = [*patterns, "*.safetensors", *(_PICKLES if config.allow_pickle else ())]
    try:
        # Subfolders hold copies for other programs, and `consolidated` files repeat the weights.
        folder = snapshot_download(
            config.path,
            revision=config.revision,
            allow_patterns=list(patterns),
            ignore_patterns=["*/*", "consolidated*"],
            local_files_only=offline,
        )
    except OSError as error:
        with disk_errors(Path(constants.HF_HUB_CACHE)):
            if error.errno in (28, 30):
                raise
        raise _not_on_hub(config, offline, error) from error
    except ValueError as error:  # a name that the hub refuses as a name
        raise _not_on_hub(config, offline, error) from error
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise _not_on_hub(config, offline, FileNotFoundError("it has no config.json"))
    return path, config.path, {"commit": path.name, "revision": config.revision}


def _reachable(endpoint: str) -> bool:
    """A quick look whether the hub answers at all, so that an offline machine does not wait for five retries."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urlparse(endpoint)
    try:
        with socket.create_connection((address.hostname or "", address.port or 443), timeout=5):
            return True
    except OSError:
        return False


def _not_on_hub(config: ModelConfig, offline: bool, error: Exception) -> UserError:
    name = f"`{config.path}`" + (f" at `{config.revision}`" if config.revision else "")
    cache = constants.HF_HUB_CACHE
    if offline:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
        return UserError(
            f"the model {name} is neither a path here nor in the hub's cache, and {why}",
            where=f"working folder {Path.cwd()}; cache {cache}",
            fix="name a local folder or GGUF file, or fetch it where there is a network: `hf download "
            + config.path
            + "`",
        )
    gated = isinstance(error, huggingface_hub.errors.GatedRepoError)
    fix = (
        "accept its terms on the hub, then `hf auth login`" if gated else "check the name, the revision and your login"
    )
    first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return UserError(
        f"the model {name} cannot be fetched: {first}", where=f"{constants.ENDPOINT}; cache {cache}", fix=fix
    )
