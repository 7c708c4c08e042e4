"""The sentiment experiment, from nothing: clean the tweets, train every recipe on one split, compare them.

python recipes/sentiment/run.py            # all of it
SENTIMENT=quick python recipes/sentiment/run.py   # some hundred rows, to see that it works
python recipes/sentiment/run.py minilm-full minilm-1000   # these only; others that are complete are compared too
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import clean  # noqa: E402 - lies beside this file, which is run as it is

import compare  # noqa: E402
from burnish.cli.display import display  # noqa: E402
from burnish.core.errors import UserError  # noqa: E402
from burnish.report.page import build_report  # noqa: E402
from burnish.train.config import load_run  # noqa: E402
from burnish.train.folder import RunFolder, is_run  # noqa: E402
from burnish.train.run import resume_run, start_run  # noqa: E402

RECIPES = (
    "minilm-head",
    "minilm-1000",
    "minilm-1000-augmented",
    "minilm-lora",
    "minilm-full",
    "reference",
    "smollm2-lora",
)
"""From the quickest to the slowest."""
QUICK = (
    "data.split={validation: 60, test: 120, stratify: label, seed: 0}",
    "data.train_rows=120",
    "train.num_epochs=1",
    "train.max_steps=6",
    "evaluate.every_steps=3",
    "evaluate.samples=0",
)
"""What the quick mode changes: few rows, six updates. Its figures mean nothing."""


def main(names: Sequence[str] = ()) -> int:
    """Run what is missing, and write the comparison."""
    quick = os.environ.get("SENTIMENT", "") == "quick"
    strange = [name for name in names if name not in RECIPES]
    if strange:
        raise UserError(f"there is no recipe `{strange[0]}`", fix="one of: " + ", ".join(RECIPES))
    home = Path(os.environ.get("SENTIMENT_HOME", HERE.parents[1] / "runs/sentiment"))
    report = clean.prepare(home)
    print("\n".join(clean.lines(report)))
    output = home / "quick" if quick else home
    for name in names or RECIPES:
        train(name, home, output, quick)
    comparison = compare.compare(output, home / "tweets.jsonl", RECIPES)
    print(comparison)
    return 0


def train(name: str, home: Path, output: Path, quick: bool) -> None:
    """Train one recipe, go on where it was stopped, or leave it as it is where it is complete."""
    folder = RunFolder(output / name)
    with display(False) as shown:
        if is_run(folder.path) and folder.read("evaluation.json"):
            print(f"{name}: complete")
            return
        print(f"{name}: training")
        if is_run(folder.path):
            result = resume_run(folder.path, callbacks=[shown])
        else:
            changed = [f"output={output}", f"data.train.path={home / 'tweets.jsonl'}", *(QUICK if quick else ())]
            result = start_run(load_run(HERE / f"{name}.yaml", changed), callbacks=[shown])
    if result.reason == "interrupted":
        raise UserError("interrupted and saved", fix="call it again to go on")
    build_report(folder.path)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
