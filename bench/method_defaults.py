"""Does every method beat its frozen base with its own default learning rate? SmolLM2 and MiniLM, a few rows, one pass.

    python bench/method_defaults.py                                     # 12 methods x 2 recipes, 1,000 rows each
    python bench/method_defaults.py --recipes smollm2 --methods ia3,prompt --rows 300
    python bench/method_defaults.py --methods ia3 --rate 1e-2           # another rate, beside the default one
    python bench/method_defaults.py --methods peft:LOHA,peft:OFT        # methods of peft, through the bridge

Each run is a process of its own: the recipe's model, rows and rendering, ``adapter: {method: NAME}`` with nothing else
set, and no ``train.learning_rate``. It is finished when its result is in the JSON file, so that a second call goes on
where the first one ended (``--again`` starts over). A method beats the base clearly when the 95 % interval of the
paired difference of macro-F1 lies above zero. A classification's base is an encoder with a head as it was drawn, which
is a low bar: there the head alone, trained on the frozen encoder, is compared too, on the same rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from burnish.adapters.registry import METHODS
from burnish.core.files import write_atomic, write_json
from burnish.recipes import find_recipe
from burnish.trials.paired import Answers, paired_difference

RECIPES = {"smollm2": "quickstart", "minilm": "sentiment-encoder"}
HEAD = "head"
COMMAND = "from burnish.cli.main import main; main()"


@dataclass(frozen=True)
class Case:
    """One run: a recipe, a method, and a peak learning rate where it is not the method's own."""

    recipe: str
    method: str
    seed: int
    rate: float | None = None

    def key(self, arguments: argparse.Namespace) -> str:
        """Its name in the file of results, with all that decides about its numbers."""
        rate = f"{self.rate:g}" if self.rate else "default"
        size = f"{arguments.rows} rows, {arguments.epochs:g} epochs, {arguments.test_rows} test rows"
        return f"{self.recipe} / {self.method} / rate {rate} / {size} / seed {self.seed}"


def main() -> None:
    """Run what is not done yet, and write the results after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(RECIPES), help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--methods", default=",".join(METHODS), help="names, also such as peft:LOHA")
    parser.add_argument("--rows", type=int, default=1000, help="training rows")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--validation-rows", type=int, default=100, help="rows that choose the checkpoint")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--rate", type=float, default=None, help="a learning rate in the place of the default one")
    parser.add_argument("--out", type=Path, default=Path("runs/method-defaults"))
    parser.add_argument("--again", action="store_true", help="measure also what has a result")
    parser.add_argument("--keep", action="store_true", help="keep the folders of the runs")
    arguments = parser.parse_args()
    file = arguments.out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for case in cases(arguments):
        key = case.key(arguments)
        if key in results and not arguments.again:
            continue
        print(f"{key} ...", flush=True)
        results[key] = {"case": vars(case), **measured(case, arguments)}
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(file, results)
        write_atomic(arguments.out / "results.md", table(results).encode())
        print(f"  {line(results[key], None)}", flush=True)
    print(table(results))


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """The runs, in their order."""
    for seed in arguments.seeds.split(","):
        for recipe in arguments.recipes.split(","):
            for method in arguments.methods.split(","):
                yield Case(recipe, method, int(seed), arguments.rate)


def recipe_of(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """The ready recipe with the method in the place of its own, at the method's own learning rate."""
    values: dict[str, Any] = yaml.safe_load(find_recipe(RECIPES[case.recipe]).read_text(encoding="utf-8"))
    train = {**values["train"], "num_epochs": arguments.epochs}
    del train["learning_rate"]
    if case.rate:
        train["learning_rate"] = case.rate
    data = {**values["data"], "train_rows": arguments.rows}
    data["split"] = {**data["split"], "validation": arguments.validation_rows, "test": arguments.test_rows}
    updates = max(1, int(arguments.rows * arguments.epochs / train["batch_size"]))
    evaluate = {**values.get("evaluate", {}), "every_steps": max(1, updates // 3), "samples": 0}
    evaluate["speed"] = False
    name = f"{case.recipe}-{case.method}-{case.seed}".replace(":", "-")
    given = {"name": name, "adapter": {"method": case.method}, "data": data, "train": train, "evaluate": evaluate}
    return {**values, **given, "seed": case.seed, "output": str((arguments.out / "runs").resolve())}


def measured(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and read what came out; a refusal is a result too."""
    values, began = recipe_of(case, arguments), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="burnish-defaults-") as place:
        recipe = Path(place) / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
        command = [sys.executable, "-c", COMMAND, "run", str(recipe), "--force", "--json"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        lines = [one.strip() for one in told.stderr.splitlines() if one.strip()]
        first = next((one for one in lines if one.startswith("error:")), lines[-1] if lines else "no word")
        return {"failed": first.removeprefix("error:").strip(), "seconds": time.monotonic() - began}
    folder = Path(values["output"]) / values["name"]
    found = outcome(folder) | {"seconds": time.monotonic() - began}
    if not arguments.keep:
        shutil.rmtree(folder)
    return found


def outcome(folder: Path) -> dict[str, Any]:
    """What is kept of a run."""
    scored = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    rows = [json.loads(one) for one in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "rate": model["learning_rate"],
        "trainable": model["trainable"],
        "base": scored["base"]["metrics"]["macro_f1"],
        "tuned": scored["tuned"]["metrics"]["macro_f1"],
        "difference": scored["comparison"]["macro_f1"],
        "rows": [{"id": r["id"], "target": r["target"], "tuned": {"predicted": r["tuned"]["predicted"]}} for r in rows],
    }


def table(results: Mapping[str, Any]) -> str:
    """Everything measured so far, in Markdown."""
    head = "recipe | method | learning rate | trained | base | tuned | tuned − base | clearly better | − head alone"
    lines = [f"| {head} | seconds |", "|---" * 10 + "|"]
    for key, found in results.items():
        lines.append(line(found, results.get(key.replace(f"/ {found['case']['method']} /", f"/ {HEAD} /"))))
    done = [one for one in results.values() if "failed" not in one]
    missed = [one for one in done if one["difference"]["low"] <= 0]
    named = ", ".join(f"{one['case']['method']} ({one['case']['recipe']})" for one in missed) or "none"
    verdict = f"{len(done) - len(missed)} of {len(done)} beat the base clearly; not: {named}"
    refused = len(results) - len(done)
    return "\n".join([*lines, "", f"{verdict}; refused: {refused}" if refused else verdict, ""])


def line(found: Mapping[str, Any], alone: Mapping[str, Any] | None) -> str:
    """One row of the table."""
    case = found["case"]
    if "failed" in found:
        return f"| {case['recipe']} | {case['method']} | refused: {found['failed']} |" + " |" * 7
    cells = [
        case["recipe"],
        case["method"],
        f"{found['rate']['value']:.3g}",
        f"{found['trainable']:,}",
        interval(found["base"], "value"),
        interval(found["tuned"], "value"),
        interval(found["difference"], "difference"),
        "yes" if found["difference"]["low"] > 0 else "**no**",
        beside_head(found, alone),
        f"{found['seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def beside_head(found: Mapping[str, Any], alone: Mapping[str, Any] | None) -> str:
    """The method against the head alone on the same rows."""
    case = found["case"]
    if alone is None or "failed" in alone or case["method"] == HEAD or case["recipe"] != "minilm":
        return ""
    before, after = ([Answers.of(one["rows"], "tuned")] for one in (alone, found))
    mean, low, high = paired_difference(before, after)
    return interval({"difference": mean, "low": low, "high": high}, "difference")


def interval(found: Mapping[str, float], name: str) -> str:
    """A number with its interval."""
    sign = "+" if name == "difference" else ""
    return f"{found[name]:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"


if __name__ == "__main__":
    main()
