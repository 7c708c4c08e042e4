"""Comparing an exported model folder with the run that it came from: the same tokens in, the same tokens out."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from burnish.core.errors import UserError
from burnish.data.config import RenderConfig
from burnish.data.render import Renderer
from burnish.evaluate.classes import renderer_of
from burnish.models.generate import GenerateConfig, generate
from burnish.models.load import Loaded
from burnish.train.folder import open_run
from burnish.train.handover import load_handed_over, open_model
from burnish.train.verify import last_logits

TALK = (
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Italy?"},
)
PROMPTS = 8


@dataclass
class ExportReport:
    """How an export compares with its run.

    Attributes:
        prompts: Prompts that were compared.
        same_ids: Prompts that become the same token ids.
        same_answers: Prompts that are answered with the same tokens, greedily.
        same_chat: Whether a conversation becomes the same token ids; None where neither has a chat template.
        difference: Largest difference of a last logit.
        examples: Prompts whose answers differ, with both answers.
    """

    prompts: int
    same_ids: int = 0
    same_answers: int = 0
    same_chat: bool | None = None
    difference: float = 0.0
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether everything is the same."""
        return self.same_ids == self.same_answers == self.prompts and self.same_chat is not False


def compare_export(run: Path, export: str, *, max_new_tokens: int = 16) -> ExportReport:
    """Hold an exported folder against a run on the run's own held-out prompts.

    Args:
        run: The run folder.
        export: A model folder, such as `burnish merge` wrote.
        max_new_tokens: Length of the compared answers.

    Raises:
        UserError: There is no run or no model.
    """
    ours, theirs = load_handed_over(run, dtype=torch.float32), open_model(export, dtype=torch.float32)
    if ours.classifier is not None:
        return _compare_classes(run, ours, theirs)
    prompts = [row["prompt"] for row in open_run(run).read_rows("samples.jsonl")][:PROMPTS] or ["Hello"]
    report = ExportReport(len(prompts))
    first, second = (_ids(model, prompts) for model in (ours, theirs))
    report.same_ids = sum(a == b for a, b in zip(first, second, strict=True))
    report.same_chat = _same_chat(ours, theirs)
    config = GenerateConfig(max_new_tokens=max_new_tokens)
    answers = [generate(model, ids, config) for model, ids in ((ours, first), (theirs, second))]
    for prompt, ids, one, other in zip(prompts, first, *answers, strict=True):
        if list(one.token_ids) == list(other.token_ids):
            report.same_answers += 1
        else:
            report.examples.append({"prompt": prompt, "run": one.text, "export": other.text})
        both = [last_logits(model, torch.tensor([ids])) for model in (ours, theirs)]
        if both[0].shape == both[1].shape:
            report.difference = max(report.difference, float((both[0] - both[1]).abs().max()))
    return report


def _compare_classes(run: Path, ours: Loaded, theirs: Loaded) -> ExportReport:
    """The same for a head: the same tokens, and the same answer to each text."""
    if theirs.classifier is None or ours.classifier is None:
        raise UserError(
            "the export has no classification head that Burnish reads",
            where=str(theirs.path),
            fix="name a folder that `burnish merge` wrote",
        )
    prompts = [row["prompt"] for row in islice(open_run(run).iter_rows("predictions.jsonl"), PROMPTS)] or ["Hello"]
    report = ExportReport(len(prompts))
    for prompt in prompts:
        ids = [renderer_of(m).prompt_ids(prompt) for m in (ours, theirs)]
        report.same_ids += ids[0] == ids[1]
        both = [last_logits(m, torch.tensor([i])) for m, i in zip((ours, theirs), ids, strict=True)]
        names = [_said(m, x) for m, x in zip((ours, theirs), both, strict=True)]
        if names[0] == names[1]:
            report.same_answers += 1
        else:
            report.examples.append({"prompt": prompt, "run": names[0], "export": names[1]})
        if both[0].shape == both[1].shape:
            report.difference = max(report.difference, float((both[0] - both[1]).abs().max()))
    return report


def _said(loaded: Loaded, logits: torch.Tensor) -> str:
    """What a head's logits say: the likeliest of its names, of each token where it reads them all; a number rounded."""
    assert loaded.classifier is not None
    labels = loaded.classifier.labels
    if len(labels) == 1:
        return f"{float(logits.flatten()[0]):.3f}"
    axis = 1 if loaded.classifier.task == "extractive-qa" else -1
    found = logits.argmax(axis).flatten().tolist()
    return " ".join(labels[i] if axis == -1 else str(i) for i in found)


def _ids(loaded: Loaded, prompts: list[str]) -> list[list[int]]:
    renderer = Renderer(loaded.tokenizer, RenderConfig(), loaded.kind)
    return [renderer.prompt_ids(prompt) for prompt in prompts]


def _same_chat(ours: Loaded, theirs: Loaded) -> bool | None:
    if not ours.tokenizer.chat_template and not theirs.tokenizer.chat_template:
        return None
    if not ours.tokenizer.chat_template or not theirs.tokenizer.chat_template:
        return False
    first, second = (Renderer(m.tokenizer, RenderConfig(), m.kind).prompt_ids(TALK) for m in (ours, theirs))
    return first == second
