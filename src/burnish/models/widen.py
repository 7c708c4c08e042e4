"""Weights of 16 bits as a copy in 32 on the disk, so that processes which share weights out map them and copy none.

A weight that has the format it is loaded in is mapped from its file: its pages lie in memory once for all processes of
a machine, and go when room is needed. One that is converted lies in the memory of each. The copy is made once, tensor
by tensor, and loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from burnish.core.errors import UserError
from burnish.core.files import disk_errors, make_readable
from burnish.core.paths import cache_folder

_WIDER = {"BF16", "F16"}
_BYTES = 4


def widened(folder: Path) -> Path:
    """A folder with the same weights in fp32, made if it is not in the cache yet; it appears whole or not at all.

    Args:
        folder: A model folder with safetensors.

    Raises:
        UserError: The disk is full, or the cache cannot be written.
    """
    target = cache_folder() / "fp32" / _key(folder)
    if target.is_dir():
        return target
    partial = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    try:
        with disk_errors(target):
            partial.mkdir(parents=True)
            for path in sorted(folder.glob("*.safetensors")):
                _widen(path, partial / path.name)
            for path in (*folder.glob("*.index.json"), folder / "config.json"):
                shutil.copyfile(path, partial / path.name)
            make_readable(partial)
            if not target.is_dir():
                partial.rename(target)
    except UserError as error:
        if not target.is_dir():  # another process may have made the same copy meanwhile
            fix = "free space for 4 bytes a weight there, or set $BURNISH_CACHE to a folder with room"
            raise UserError(error.what, where=error.where, fix=fix) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _key(folder: Path) -> str:
    digest = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape"))
    for path in sorted(folder.glob("*.safetensors")):
        status = path.stat()
        digest.update(f" {path.name} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}".encode())
    return f"{folder.resolve().name}-{digest.hexdigest()[:16]}"


def _widen(source: Path, target: Path) -> None:
    """One file, in the format's own words: 8 bytes of length, a header in JSON, and the numbers."""
    header, place = {}, 0
    given = header_of(source)
    for name, entry in given.items():
        begin, end = entry["data_offsets"]
        wide = entry["dtype"] in _WIDER
        size = (end - begin) // 2 * _BYTES if wide else end - begin
        header[name] = {**entry, "dtype": "F32" if wide else entry["dtype"], "data_offsets": [place, place + size]}
        place += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with safe_open(source, framework="pt") as tensors, target.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, entry in given.items():
            tensor = tensors.get_tensor(name)
            wide = tensor.float() if entry["dtype"] in _WIDER else tensor
            file.write(wide.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def header_of(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, without their numbers, in the order in which they lie."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))
