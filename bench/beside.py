"""Is a method of Burnish as good as the same one in PEFT or AdapterHub? Equal sizes, rows, seeds, rates and updates.

    python bench/beside.py                                                      # PEFT: 10 methods, 3 seeds, 500 tweets
    python bench/beside.py --library adapters --peer bench/.venv/adapters/bin/python
    python bench/beside.py --methods lora,ia3 --seeds 5
    python bench/beside.py show

Burnish trains as `burnish run` does. The other side is a plain loop around the library's model (`beside_loop.py`): the
same rows in the same order and padded, the same head with the same first values, AdamW at the rates that Burnish had in
each update for adapter and head, the same clipping, bf16 autocast, and the checkpoint that was best on the same
validation rows at the same updates. Each keeps its own default initialisation, dropout draws and kernels. Qualities are
compared on the same test rows, paired by seed and by row, as `burnish compare-methods` does it. What is done is not
done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from burnish.api import load_recipe
from burnish.compare.statistics import Pair, Scored, estimate, resampled
from burnish.core.files import read_lines, write_json
from burnish.core.paths import resolve_path
from burnish.data.table import TokenTable
from burnish.evaluate.intervals import holm
from burnish.train import run
from burnish.train.config import RunConfig
from burnish.train.folder import RunFolder
from burnish.train.setup import set_up
from burnish.train.verify import verify_run

RECIPE = "sentiment-encoder"
LAYER = r".*layer\.\d+\."
LINEAR = LAYER + r"(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense)"
DOWN = LAYER + r"output\.dense"
VIRTUAL = {"num_virtual_tokens": 20}


@dataclass(frozen=True)
class Twin:
    """A method in both.

    Attributes:
        adapter: Burnish's section.
        kind: The other library's configuration class.
        settings: Its arguments.
        library: Which one.
    """

    adapter: dict[str, Any]
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    library: str = "peft"


def _lora(alpha: int = 16, own: Mapping[str, Any] | None = None, **theirs: Any) -> Twin:
    adapter = {"method": "lora", "rank": 8, "alpha": alpha, **(own or {})}
    return Twin(adapter, "LoraConfig", {"r": 8, "lora_alpha": alpha, "target_modules": LINEAR, **theirs})


def _bottleneck(kind: str, settings: Mapping[str, Any], **own: Any) -> Twin:
    theirs = {"reduction_factor": 16, "non_linearity": "relu", **settings}
    return Twin({"method": "bottleneck", "reduction_factor": 16, **own}, kind, theirs, "adapters")


TWINS: Mapping[str, Twin] = {
    "lora": _lora(),
    "rslora": _lora(own={"rslora": True}, use_rslora=True),
    "dora": _lora(own={"dora": True}, use_dora=True),
    "pissa": _lora(8, {"init": "pissa"}, init_lora_weights="pissa"),
    "vera": Twin({"method": "vera", "rank": 64}, "VeraConfig", {"r": 64, "target_modules": LINEAR}),
    "ia3": Twin(
        {"method": "ia3"},
        "IA3Config",
        {"target_modules": rf"({LAYER}attention\.self\.(key|value)|{DOWN})", "feedforward_modules": DOWN},
    ),
    "norm": Twin({"method": "norm"}, "LNTuningConfig", {"target_modules": ["LayerNorm"]}),
    "prompt": Twin({"method": "prompt", **VIRTUAL}, "PromptTuningConfig", VIRTUAL),
    "p-tuning": Twin({"method": "p-tuning", **VIRTUAL}, "PromptEncoderConfig", VIRTUAL),
    "prefix": Twin({"method": "prefix", **VIRTUAL}, "PrefixTuningConfig", VIRTUAL),
    "bottleneck": _bottleneck("SeqBnConfig", {"original_ln_before": False}),
    "bottleneck-after-norm": _bottleneck("SeqBnConfig", {}, form="after-norm"),
    "bottleneck-both": _bottleneck("DoubleSeqBnConfig", {}, placement="both"),
    "bottleneck-parallel": _bottleneck("ParBnConfig", {"scaling": 4.0}, form="parallel", scale=4.0),
    "prefix-adapterhub": Twin(
        {"method": "prefix", **VIRTUAL}, "PrefixTuningConfig", {"prefix_length": 20, "flat": True}, "adapters"
    ),
}


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["all", "show"], default="all")
    parser.add_argument("--library", choices=["peft", "adapters"], default="peft")
    parser.add_argument("--peer", default=sys.executable, help="a Python that has the library; without it this one")
    parser.add_argument("--methods", help="some of them, in the place of all of the library")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-beside"))
    arguments = parser.parse_args()
    # what is done is known by all that decides about its numbers
    arguments.out /= f"{arguments.rows}-rows-{arguments.epochs:g}-epochs-{arguments.test_rows}-test-rows"
    arguments.out.mkdir(parents=True, exist_ok=True)
    known = [name for name, twin in TWINS.items() if twin.library == arguments.library]
    names = arguments.methods.split(",") if arguments.methods else known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"`{unknown[0]}` is no method of {arguments.library} here; there are {', '.join(known)}")
    if arguments.part == "all":
        run.read_back = verify_run  # type: ignore[assignment]  # a fresh process each takes seconds to import PyTorch
        for seed in range(arguments.seeds):
            for name in names:
                measure(name, seed, arguments)
    print(table(names, arguments))


def measure(name: str, seed: int, arguments: argparse.Namespace) -> None:
    """Train both with a seed, and keep their answers to the test rows."""
    path = arguments.out / f"{name}-{seed}.json"
    if path.is_file():
        return
    config = recipe(TWINS[name].adapter, name, seed, arguments)
    folder = RunFolder(config.folder)
    if not (folder.path / "predictions.jsonl").is_file():
        run.start_run(config, force=True)
    job = job_of(TWINS[name], config, folder)
    with tempfile.TemporaryDirectory(prefix="burnish-beside-") as place:
        write_json(Path(place) / "job.json", job)
        script = Path(__file__).with_name("beside_loop.py")
        said = subprocess.run([arguments.peer, str(script), place], capture_output=True, text=True, check=False)
        if said.returncode:
            failed = (said.stderr.strip().splitlines() or [f"it ended with {said.returncode}"])[-1]
            write_json(path, {"failed": failed})
            print(f"{name}, seed {seed}: {failed}", flush=True)
            return
        answer = json.loads((Path(place) / "answer.json").read_text(encoding="utf-8"))
    model = folder.read("model.json") or {}
    write_json(
        path,
        {
            "classes": len(job["head"]["bias"]),
            "true": job["test"]["labels"],
            "ours": ours(folder, job["labels"]),
            "theirs": answer["classes"],
            "trainable": [model["trainable"], answer["trainable"]],
        },
    )
    print(f"{name}, seed {seed}: done", flush=True)


def recipe(adapter: dict[str, Any], name: str, seed: int, arguments: argparse.Namespace) -> RunConfig:
    """The embedded recipe with a method at its own learning rate; the test rows are those of seed 0."""
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


def job_of(twin: Twin, config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """What the other side is given."""
    setup = set_up(config)
    head = setup.loaded.classifier
    assert head is not None and head.bias is not None and head.pooling == "mean"
    logged = [line for line in read_lines(folder.path / "metrics.jsonl") if line["kind"] == "train"]
    parts = {name: rows_of(getattr(setup.prepared, name)) for name in ("train", "validation", "test")}
    return {
        **parts,
        "library": twin.library,
        "class": twin.kind,
        "settings": twin.settings,
        "model": str(resolve_path(str(config.model.path))),
        "seed": config.seed,
        "labels": list(head.labels),
        "head": {"weight": head.weight.tolist(), "bias": head.bias.tolist(), "dropout": head.dropout},
        "head_rate_scale": setup.stages.scales().get("classifier.weight", (1.0,))[0],
        "rates": [line["learning_rate"] for line in logged],
        "order": [setup.task_updates.rows(step).tolist() for step in range(len(logged))],
        "max_grad_norm": config.train.max_grad_norm or float("inf"),
        "evaluate_every": setup.evaluate_every,
    }


def rows_of(rows: TokenTable) -> dict[str, Any]:
    """Token ids and classes."""
    return {"ids": [rows.row(i)[0].tolist() for i in range(len(rows))], "labels": np.asarray(rows.labels).tolist()}


def ours(folder: RunFolder, labels: Sequence[str]) -> list[int]:
    """Burnish's classes of the test rows."""
    return [labels.index(row["tuned"]["predicted"]) for row in read_lines(folder.path / "predictions.jsonl")]


def scored(true: Sequence[int], predicted: Sequence[int], classes: int) -> Scored:
    """Answers as the statistics of comparisons take them; losses are not compared."""
    nothing = np.zeros(len(true))
    return Scored(tuple(map(str, range(len(true)))), nothing, nothing + 1, np.array(true), np.array(predicted), classes)


def table(names: Sequence[str], arguments: argparse.Namespace) -> str:
    """Both with the mean of their seeds, and the paired difference after Holm's correction over all methods."""
    lines, found = dict[str, str](), []
    for name in names:
        files = [arguments.out / f"{name}-{seed}.json" for seed in range(arguments.seeds)]
        told = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        good = [one for one in told if "failed" not in one]
        if not good:
            lines[name] = f"| {name} | | | | {told[0]['failed'] if told else 'not measured'} |"
            continue
        one, other = (
            [scored(each["true"], each[side], each["classes"]) for each in good] for side in ("ours", "theirs")
        )
        draws = resampled(len(good[0]["true"]))
        values = [estimate(side, "macro_f1", draws).value for side in (one, other)]
        found.append((name, values, estimate(one, "macro_f1", draws, other), good[0]["trainable"]))
        lines[name] = ""
    for (name, values, d, sizes), p in zip(found, holm([d.p for _, _, d, _ in found]), strict=True):
        pair = Pair("ours", "theirs", d, d.p, p)
        verdict = ("better" if d.value > 0 else "**worse**") if pair.significant else "no significant difference"
        verdict = verdict if len(set(sizes)) == 1 else f"**not the same size**, {verdict}"
        trained, span = " / ".join(f"{n:,}" for n in sizes), f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})"
        lines[name] = f"| {name} | {trained} | {values[0]:.3f} | {values[1]:.3f} | {span}, {verdict} |"
    title = {"peft": "PEFT", "adapters": "AdapterHub"}[arguments.library]
    head = f"| method | trained, Burnish / {title} | Burnish | {title} | difference |\n|---|--:|--:|--:|---|\n"
    return head + "\n".join(lines.values())


if __name__ == "__main__":
    main()
