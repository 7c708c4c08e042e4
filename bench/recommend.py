"""Do the recommendations hold? Ranks by gradients against a uniform rank, and methods by short trials against all.

    python bench/recommend.py ranks                              # MiniLM, 1,000 tweets, rank 4, 5 seeds
    python bench/recommend.py ranks --rank 8 --rows 500
    python bench/recommend.py show                               # what is measured so far

`ranks` measures the gradients of the untouched model once for each number of rows, deals ranks in each way that
`burnish ranks` knows, and trains each pattern and the uniform rank, which has the same number of parameters, with the
same seeds. All are compared on the same test rows, by the intervals and tests of `burnish compare-methods`.

Everything is resumed: what is done is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from burnish.api import load_recipe
from burnish.compare.run import RESULTS, compare_methods
from burnish.compare.trials import Wanted
from burnish.compare.variants import Variant
from burnish.core.files import write_atomic
from burnish.plan.importance import saliences
from burnish.plan.ranks import GAINS, lora_of, overlay, plan_ranks, sites_of
from burnish.train.config import RunConfig
from burnish.train.sensitivity import sample_losses

RECIPE = "sentiment-encoder"
UNIFORM = "uniform"


def main() -> None:
    """Run what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--rows", type=int, default=1000, help="training rows")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of the patterns")
    parser.add_argument("--rank", type=int, default=4, help="the uniform rank")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-recommend"))
    arguments = parser.parse_args()
    PARTS[arguments.part](arguments)


def recipe(arguments: argparse.Namespace, *overrides: str) -> RunConfig:
    """The embedded recipe of MiniLM with these rows."""
    return load_recipe(
        RECIPE,
        [
            f"data.train_rows={arguments.rows}",
            f"data.split.test={arguments.test_rows}",
            f"train.num_epochs={arguments.epochs:g}",
            "evaluate.retention=none",
            *overrides,
        ],
    )


def ranks(arguments: argparse.Namespace) -> None:
    """Patterns against the uniform rank."""
    config = recipe(arguments, f"train.learning_rate={arguments.rate:g}", f"adapter.rank={arguments.rank}")
    folder = (arguments.out / f"ranks-{arguments.rank}-rows-{arguments.rows}").resolve()
    variants = [Variant(UNIFORM, ()), *(Variant(by, (), (f"@{file}",)) for by, file in patterns(config, folder))]
    compare_methods(Wanted(config, variants, arguments.seeds, folder, timed=False))
    show(arguments)


def patterns(config: RunConfig, folder: Path) -> Iterator[tuple[str, Path]]:
    """A file of settings for each way of dealing ranks; the gradients are measured if one is not there yet."""
    files = {by: folder / f"{by}.yaml" for by in GAINS}
    if not all(file.is_file() for file in files.values()):
        number, lora = lora_of(config.adapters)
        loaded, losses = sample_losses(config, 64, one_by_one=True)
        found = saliences(loaded.model, sites_of(lora, loaded.model), losses)
        for by, file in files.items():
            plan = plan_ranks(lora, loaded.model, found, by)
            assert plan.hit
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, overlay(config.adapters, number, plan))
    yield from files.items()


def show(arguments: argparse.Namespace) -> None:
    """Tables in Markdown of all that was measured."""
    for file in sorted(arguments.out.glob(f"ranks-*/{RESULTS}")):
        print(f"\n{file.parent.name}\n")
        print("\n".join(rank_table(json.loads(file.read_text(encoding="utf-8")))))


def rank_table(found: dict[str, Any]) -> Sequence[str]:
    """Each pattern with its difference to the uniform rank."""
    metric = found["metric"]
    lines = [f"| ranks | parameters | {metric} | minus uniform | p (Holm) |", "|---|--:|--:|--:|--:|"]
    for one in found["methods"]:
        if one["quality"]:
            value = one["quality"][metric]
            cells = [one["label"], f"{one['trainable']:,.0f}", f"{value['value']:.4f} ({one['runs']} seeds)"]
            lines.append(f"| {' | '.join([*cells, *against(found, one['label'])])} |")
    return lines


def against(found: dict[str, Any], label: str) -> tuple[str, str]:
    """The difference to the uniform rank with its interval, and its p-value."""
    for pair in found["pairs"]:
        if {pair["first"], pair["second"]} == {label, UNIFORM}:
            d, sign = pair["difference"], 1 if pair["first"] == label else -1
            low, high = sorted((sign * d["low"], sign * d["high"]))
            return f"{sign * d['value']:+.4f} [{low:+.4f}, {high:+.4f}]", f"{pair['p_holm']:.2g}"
    return "", ""


PARTS = {"ranks": ranks, "show": show}

if __name__ == "__main__":
    main()
