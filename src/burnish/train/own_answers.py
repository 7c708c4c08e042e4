"""Self-synthesised replay: the original model's own answers to general prompts, written once and kept.

Huang et al. (2024, arXiv:2403.01244) replay rows that the model makes itself, for models whose training data nobody
has. Here the model answers fixed prompts; what it says is what is to be kept. Deviation: no demonstrations are shown
to it, and the answers are not clustered or refined.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import UserError
from burnish.core.files import write_atomic
from burnish.core.paths import cache_folder, resolve_path
from burnish.data.config import RenderConfig
from burnish.data.render import Kind, Renderer
from burnish.models.fetch import fetch
from burnish.models.generate import GenerateConfig, generate
from burnish.models.load import load
from burnish.ops.machine import default_device
from burnish.train.config import RunConfig

PROMPTS = Path(__file__).parents[1] / "data" / "general_prompts.txt"
_BATCH_TOKENS = 2048
_STREAM = 0x5E1F


def own_answers(config: RunConfig, tokenizer: PreTrainedTokenizerBase, kind: Kind) -> Path:
    """A JSONL file of prompts with the original model's answers, made if it is not there yet.

    Its name is a hash of the weights, the tokenizer, the prompts and the settings, so that whatever changes one of
    them makes a new one, and every run of a comparison reads the same one.

    Raises:
        UserError: The prompts cannot be read, or the model answers none of them.
    """
    assert config.data.replay is not None
    settings = config.data.replay.own
    prompts = _chosen(_prompts(settings.prompts), settings.rows, config.seed)
    chat = bool(getattr(tokenizer, "chat_template", None)) and kind != "seq2seq"
    parts = [
        fetch(config.model).origin,
        [prompts, chat, settings.max_new_tokens, settings.temperature, config.seed],
        [getattr(tokenizer, "chat_template", None), len(tokenizer)],
        [version("transformers"), version("torch"), Path(__file__).read_text(encoding="utf-8")],
    ]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    path = cache_folder() / "own-answers" / f"{key[:32]}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _written(config, prompts, chat=chat))
    return path


def _prompts(given: str | None) -> list[str]:
    path = resolve_path(given) if given else PROMPTS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the prompts cannot be read: {error}",
            where="data.replay.own.prompts",
            fix="name a UTF-8 text file with one prompt a line",
        ) from None
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise UserError("there is no prompt in this file", where=str(path), fix="write one prompt a line")
    return found


def _chosen(prompts: list[str], count: int, seed: int) -> list[str]:
    order = np.random.default_rng([_STREAM, seed]).permutation(len(prompts))[:count]
    return [prompts[int(i)] for i in order]


def _written(config: RunConfig, prompts: list[str], *, chat: bool) -> str:
    assert config.data.replay is not None
    settings = config.data.replay.own
    loaded = load(config.model, torch.float32)
    loaded.model.to(default_device())  # type: ignore[arg-type]
    loaded.model.eval()
    renderer = Renderer(loaded.tokenizer, RenderConfig(), loaded.kind)
    asked = [prompt if chat or loaded.kind == "seq2seq" else f"{prompt}\n" for prompt in prompts]
    ids = [renderer.prompt_ids([{"role": "user", "content": text}] if chat else text) for text in asked]
    how = GenerateConfig(
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_p=0.95, seed=config.seed
    )
    lines = []
    for text, answer in zip(asked, generate(loaded, ids, how, _BATCH_TOKENS), strict=True):
        if not answer.text.strip():
            continue
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer.text.strip()}]
        lines.append({"messages": turns} if chat else {"prompt": text, "completion": answer.text})
    if not lines:
        raise UserError(
            "the original model answers none of the prompts",
            where="data.replay.own",
            fix="use `data.replay.source=general`, or give other prompts",
        )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
