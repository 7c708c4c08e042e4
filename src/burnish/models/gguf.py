"""Convert a GGUF file to a `transformers` folder, once: reading it takes twenty times as long as reading the result."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import shutil
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from burnish.core.errors import UserError
from burnish.core.files import disk_errors, make_readable, sha256
from burnish.core.paths import cache_folder
from burnish.models.quiet import quiet

_RECORD = "burnish.json"  # written last: its presence says that the conversion is complete


def convert(path: Path) -> tuple[Path, dict[str, Any]]:
    """The safetensors folder of a GGUF file in the cache, made if it is not there yet.

    The weights are de-quantised exactly and kept in fp32. The folder is keyed by the file's size, its first and last
    MiB, and the version of `transformers`; it appears whole or not at all.

    Returns:
        The folder, and what is known of the source: ``sha256`` of the GGUF file, ``bytes``, ``converted_by``.

    Raises:
        UserError: `transformers` cannot read the file, or the cache cannot be written.
    """
    folder = cache_folder() / "gguf" / f"{path.stem}-{_key(path)[:16]}"
    record = folder / _RECORD
    if not record.is_file():
        _convert_into(path, folder)
    return folder, json.loads(record.read_text(encoding="utf-8"))


def _key(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1 << 20)
        file.seek(max(0, size - (1 << 20)))
        tail = file.read(1 << 20)
    return hashlib.sha256(f"{size} {transformers.__version__} ".encode() + head + tail).hexdigest()


def _convert_into(path: Path, folder: Path) -> None:
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _write(path, partial)
        with disk_errors(folder):
            if not (folder / _RECORD).is_file():
                shutil.rmtree(folder, ignore_errors=True)  # what a crash of the file system may have left
                partial.rename(folder)
    except UserError:
        if not (folder / _RECORD).is_file():  # another process may have finished the same conversion meanwhile
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(path: Path, target: Path) -> None:
    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(path.parent),
        "gguf_file": path.name,
        "trust_remote_code": False,
    }
    try:
        # The reader's progress bar answers to no setting of the library; it writes to stderr.
        with quiet(), redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(**source)
            model = AutoModelForCausalLM.from_pretrained(
                **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
            )
    except ImportError as error:
        raise UserError(
            f"reading GGUF needs another package: {error}", where=str(path), fix="pip install gguf"
        ) from error
    except Exception as error:
        first = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        fix = "`transformers` reads some architectures from GGUF only; name a safetensors folder instead"
        raise UserError(f"the GGUF file cannot be converted: {first}", where=str(path), fix=fix) from error
    record = {"sha256": sha256(path), "bytes": path.stat().st_size, "converted_by": transformers.__version__}
    with disk_errors(target), quiet():
        tokenizer.save_pretrained(target)
        _unquantised_shell(model).save_pretrained(target, state_dict=model.state_dict())
        (target / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        make_readable(target)


def _unquantised_shell(model: PreTrainedModel) -> PreTrainedModel:
    """The same model without memory of its quantised source, which the library would refuse to save; no weights."""
    config = copy.deepcopy(model.config)
    config.__dict__.pop("quantization_config", None)
    with torch.device("meta"):
        shell = type(model)(config)
    shell.generation_config = model.generation_config
    return shell
