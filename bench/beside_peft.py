"""Is a method of Burnish as good as the same one in PEFT? Equal sizes, rows, seeds, rates and updates, on tweets.

    python bench/beside_peft.py                              # 3 seeds, 500 rows, two passes, MiniLM
    python bench/beside_peft.py --methods lora,ia3 --seeds 5
    python bench/beside_peft.py show

Burnish trains as `burnish run` does. PEFT's side is a plain loop around `get_peft_model` on `AutoModel`: the same rows
in the same order and padded, the same head with the same first values, AdamW at the learning rate that Burnish had in
each update, the same clipping, bf16 autocast, and the checkpoint that was best on the same validation rows at the same
updates. Each keeps its own default initialisation, dropout draws and kernels. Qualities are compared on the same test
rows, paired by seed and by row, as `burnish compare-methods` does it. What is done is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from torch import Tensor, nn
from transformers import AutoModel

from burnish.api import load_recipe
from burnish.compare.statistics import Pair, Scored, estimate, resampled
from burnish.core.files import read_lines, write_json
from burnish.core.paths import resolve_path
from burnish.data.table import TokenTable
from burnish.evaluate.intervals import holm
from burnish.models.classifier import Classifier, pool
from burnish.train import run
from burnish.train.config import RunConfig
from burnish.train.folder import RunFolder
from burnish.train.setup import Setup, set_up
from burnish.train.verify import verify_run

RECIPE = "sentiment-encoder"
LINEAR = (
    r".*layer\.\d+\.(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense)"
)
DOWN = r".*layer\.\d+\.output\.dense"
VIRTUAL = 20
TASK = "FEATURE_EXTRACTION"

METHODS: Mapping[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "lora": ({"method": "lora", "rank": 8, "alpha": 16}, "LoraConfig", {"r": 8, "lora_alpha": 16}),
    "rslora": (
        {"method": "lora", "rank": 8, "alpha": 16, "rslora": True},
        "LoraConfig",
        {"r": 8, "lora_alpha": 16, "use_rslora": True},
    ),
    "dora": (
        {"method": "lora", "rank": 8, "alpha": 16, "dora": True},
        "LoraConfig",
        {"r": 8, "lora_alpha": 16, "use_dora": True},
    ),
    "pissa": (
        {"method": "lora", "rank": 8, "alpha": 8, "init": "pissa"},
        "LoraConfig",
        {"r": 8, "lora_alpha": 8, "init_lora_weights": "pissa"},
    ),
    "vera": ({"method": "vera", "rank": 64}, "VeraConfig", {"r": 64}),
    "ia3": (
        {"method": "ia3"},
        "IA3Config",
        {
            "target_modules": rf"(.*layer\.\d+\.attention\.self\.(key|value)|{DOWN})",
            "feedforward_modules": DOWN,
        },
    ),
    "norm": ({"method": "norm"}, "LNTuningConfig", {"target_modules": ["LayerNorm"]}),
    "prompt": (
        {"method": "prompt", "num_virtual_tokens": VIRTUAL},
        "PromptTuningConfig",
        {"num_virtual_tokens": VIRTUAL},
    ),
    "p-tuning": (
        {"method": "p-tuning", "num_virtual_tokens": VIRTUAL},
        "PromptEncoderConfig",
        {"num_virtual_tokens": VIRTUAL},
    ),
    "prefix": (
        {"method": "prefix", "num_virtual_tokens": VIRTUAL},
        "PrefixTuningConfig",
        {"num_virtual_tokens": VIRTUAL},
    ),
}
"""By name: Burnish's `adapter` section, PEFT's class and its arguments."""


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["all", "show"], default="all")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-beside-peft"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = arguments.methods.split(",")
    if arguments.part == "all":
        run.read_back = verify_run  # type: ignore[assignment]  # a fresh process for each run takes seconds to import PyTorch
        for seed in range(arguments.seeds):
            for name in names:
                measure(name, seed, arguments)
    print(table(names, arguments))


def measure(name: str, seed: int, arguments: argparse.Namespace) -> None:
    """Train both with a seed, and keep their answers to the test rows."""
    path = arguments.out / f"{name}-{seed}.json"
    if path.is_file():
        return
    config = recipe(name, seed, arguments)
    run.start_run(config)
    folder = RunFolder(config.folder)
    ours = [row["tuned"]["predicted"] for row in read_lines(folder.path / "predictions.jsonl")]
    setup = set_up(config.model_copy(update={"adapters": recipe("head", seed, arguments).adapters}))
    try:
        theirs, trainable = Peer(name, setup, folder).train()
    except Exception as error:  # whatever PEFT cannot do here is a result
        write_json(path, {"failed": f"{type(error).__name__}: {error}".splitlines()[0]})
        return
    labels = list(setup.loaded.classifier.labels)  # type: ignore[union-attr]
    told = {
        "labels": labels,
        "true": [labels[one] for one in setup.prepared.test.labels],
        "burnish": ours,
        "peft": [labels[one] for one in theirs],
        "trainable": {"burnish": folder.read("model.json")["trainable"], "peft": trainable},  # type: ignore[index]
    }
    write_json(path, told)
    print(f"{name}, seed {seed}: done", flush=True)


def recipe(name: str, seed: int, arguments: argparse.Namespace) -> RunConfig:
    """The embedded recipe with a method at its own learning rate; the test rows are those of seed 0."""
    adapter = {"method": "head"} if name == "head" else METHODS[name][0]
    every = max(1, int(arguments.rows * arguments.epochs / 16) // 3)
    return load_recipe(
        RECIPE,
        [
            f"adapter={json.dumps(adapter)}",
            f"name={name}-{seed}",
            f"output={(arguments.out / 'runs').resolve()}",
            f"seed={seed}",
            "data.split.seed=0",
            f"data.train_rows={arguments.rows}",
            f"data.split.test={arguments.test_rows}",
            f"train.num_epochs={arguments.epochs:g}",
            "train.learning_rate=null",
            "early_stopping.patience=null",
            f"evaluate.every_steps={every}",
            "evaluate.retention=none",
        ],
    )


class Peer:
    """PEFT's method in a plain loop.

    Args:
        name: In ``METHODS``.
        setup: Of a run that trains the head alone, for its rows and its head.
        folder: Burnish's finished run, for the learning rate of every update.
    """

    def __init__(self, name: str, setup: Setup, folder: RunFolder) -> None:
        self.setup = setup
        _, kind, settings = METHODS[name]
        if kind in ("LoraConfig", "VeraConfig"):
            settings = {**settings, "target_modules": LINEAR}
        torch.manual_seed(setup.config.seed)
        base = AutoModel.from_pretrained(resolve_path(str(setup.config.model.path)))
        self.model = peft.get_peft_model(base, getattr(peft, kind)(task_type=TASK, **settings))
        assert setup.loaded.classifier is not None
        self.head: Classifier = setup.loaded.classifier
        self.virtual = settings.get("num_virtual_tokens", 0) if kind != "PrefixTuningConfig" else 0
        logged = [line for line in read_lines(folder.path / "metrics.jsonl") if line["kind"] == "train"]
        self.rates = [line["learning_rate"] for line in logged]

    def train(self) -> tuple[list[int], int]:
        """Classes of the test rows, and the number of trained parameters."""
        table, updates = self.setup.prepared.train, self.setup.task_updates
        trained = [p for m in (self.model, self.head) for p in m.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, weight_decay=0.0)
        best, kept = -1.0, self._state()
        for step, rate in enumerate(self.rates):
            self.model.train()
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = [int(row) for row in updates.rows(step)]
            labels = torch.from_numpy(np.asarray(table.labels)[rows])
            loss = nn.functional.cross_entropy(self._logits(table, rows, True), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, self.setup.config.train.max_grad_norm or float("inf"))
            optimizer.step()
            optimizer.zero_grad()
            if (step + 1) % self.setup.evaluate_every == 0 or step + 1 == len(self.rates):
                value = self._quality()
                if value > best:
                    best, kept = value, self._state()
        self._load(kept)
        return self._classes(self.setup.prepared.test), sum(p.numel() for p in trained)

    def _logits(self, table: TokenTable, rows: Sequence[int], training: bool) -> Tensor:
        ids = nn.utils.rnn.pad_sequence([torch.from_numpy(np.array(table.row(r)[0])) for r in rows], batch_first=True)
        lengths = torch.tensor([len(table.row(r)[0]) for r in rows])
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self.model(input_ids=ids.long(), attention_mask=mask).last_hidden_state
        hidden = hidden[:, self.virtual :].float()  # the head reads the places of the row, not those of a prompt
        return self.head(pool(self.model, hidden, {"attention_mask": mask}, self.head.pooling), training)

    @torch.no_grad()
    def _classes(self, table: TokenTable) -> list[int]:
        self.model.eval()
        cuts = [range(start, min(start + 32, len(table))) for start in range(0, len(table), 32)]
        return [int(k) for rows in cuts for k in self._logits(table, rows, False).argmax(1)]

    def _quality(self) -> float:
        table = self.setup.prepared.validation
        found, true = self._classes(table), np.asarray(table.labels)
        run_ = scored(true, np.array(found), len(self.head.labels))
        return estimate([run_], "macro_f1", resampled(len(true))).value

    def _state(self) -> list[dict[str, Tensor]]:
        wanted = {name for name, p in self.model.named_parameters() if p.requires_grad}
        state = {name: value for name, value in self.model.state_dict().items() if name in wanted}
        return deepcopy([state, self.head.state_dict()])

    def _load(self, kept: Sequence[Mapping[str, Tensor]]) -> None:
        self.model.load_state_dict(kept[0], strict=False)
        self.head.load_state_dict(kept[1])


def scored(true: Any, predicted: Any, classes: int) -> Scored:
    """Answers as the statistics of comparisons take them; losses are not compared."""
    nothing = np.zeros(len(true))
    return Scored(tuple(map(str, range(len(true)))), nothing, nothing + 1, true, predicted, classes)


def numbered(labels: Sequence[str], places: Mapping[str, int]) -> Any:
    """Labels as the numbers of their classes."""
    return np.array([places[label] for label in labels])


def table(names: Sequence[str], arguments: argparse.Namespace) -> str:
    """Both with their seeds' mean, and the paired difference after Holm's correction over all methods."""
    lines, found = [], []
    for name in names:
        files = [arguments.out / f"{name}-{seed}.json" for seed in range(arguments.seeds)]
        told = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        good = [one for one in told if "failed" not in one]
        if not good:
            lines.append(f"| {name} | | | | {told[0]['failed'] if told else 'not measured'} |")
            continue
        places = {label: number for number, label in enumerate(good[0]["labels"])}
        sides = {
            side: [scored(numbered(one["true"], places), numbered(one[side], places), len(places)) for one in good]
            for side in ("burnish", "peft")
        }
        draws = resampled(len(good[0]["true"]))
        values = [estimate(sides[side], "macro_f1", draws).value for side in ("burnish", "peft")]
        difference = estimate(sides["burnish"], "macro_f1", draws, sides["peft"])
        found.append((name, values, difference, good[0]["trainable"]))
    adjusted = holm([difference.p for _, _, difference, _ in found])
    for (name, values, d, trainable), p in zip(found, adjusted, strict=True):
        pair = Pair("burnish", "peft", d, d.p, p)
        verdict = ("better" if d.value > 0 else "**worse**") if pair.significant else "no significant difference"
        sizes = " / ".join(f"{trainable[side]:,}" for side in ("burnish", "peft"))
        span = f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})"
        lines.append(f"| {name} | {sizes} | {values[0]:.3f} | {values[1]:.3f} | {span}, {verdict} |")
    head = "| method | trained, Burnish / PEFT | Burnish | PEFT | difference |\n|---|--:|--:|--:|---|\n"
    return head + "\n".join(lines)


if __name__ == "__main__":
    main()
