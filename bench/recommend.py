"""Do the recommendations hold? Ranks by gradients against a uniform rank, and methods by short trials against all.

    python bench/recommend.py ranks                              # MiniLM, 1,000 tweets, rank 4, 5 seeds
    python bench/recommend.py ranks --rank 8 --rows 500
    python bench/recommend.py methods --cases 10                 # recommended against the best of all, case by case
    python bench/recommend.py show                               # what is measured so far

`ranks` measures the gradients of the untouched model once for each number of rows, deals ranks in each way that
`burnish ranks` knows, and trains each pattern and the uniform rank, which has the same number of parameters, with the
same seeds. All are compared on the same test rows, by the intervals and tests of `burnish compare-methods`.

`methods` asks `burnish recommend` about tweets with another seed and number of rows in every case, at its own defaults
but `--trial-seeds` seeds, and then trains all candidates as the recipe says, with `--seeds` seeds, on the same rows. A
case holds if no candidate is significantly better on the test rows, which the trials never saw.

Everything is resumed: what is done is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from burnish.api import load_recipe
from burnish.compare.recommend import Asked, recommend
from burnish.compare.run import RESULTS, compare_methods
from burnish.compare.trials import Wanted
from burnish.compare.variants import Variant
from burnish.core.files import write_atomic, write_json
from burnish.forecast.situation import situation_of
from burnish.plan.importance import saliences
from burnish.plan.ranks import GAINS, lora_of, overlay, plan_ranks, sites_of
from burnish.plan.rules import prior
from burnish.train.config import RunConfig
from burnish.train.sensitivity import sample_losses

RECIPE = "sentiment-encoder"
UNIFORM = "uniform"
CASE = "case.json"
CASE_ROWS = (300, 500, 700, 900, 1200)
"""Numbers of rows, in turns: the rule changes at 1,000."""


def main() -> None:
    """Run what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--rows", type=int, default=1000, help="training rows")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of the patterns")
    parser.add_argument("--rank", type=int, default=4, help="the uniform rank")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ways", default=",".join(GAINS), help="ways of dealing ranks")
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first case, for several processes beside each other")
    parser.add_argument("--trial-seeds", type=int, default=3, help="seeds of the finalists of a recommendation")
    parser.add_argument("--candidates", default="lora,bottleneck,lora&bottleneck,prompt", help="of `methods`")
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
    dealt = {by: file for by, file in patterns(config, folder) if by in arguments.ways.split(",")}
    variants = [Variant(UNIFORM, ()), *(Variant(by, (), (f"@{file}",)) for by, file in dealt.items())]
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


def methods(arguments: argparse.Namespace) -> None:
    """Recommendations against everything that could have been recommended."""
    for number in range(arguments.first, arguments.cases):
        rows = CASE_ROWS[number % len(CASE_ROWS)]
        folder = (arguments.out / f"case-{number}-rows-{rows}").resolve()
        if (folder / CASE).is_file():
            continue
        # no rate of the recipe's: each method has its own
        config = recipe(arguments, f"data.train_rows={rows}", "train.learning_rate=null", f"seed={number}")
        asked = Asked(
            config,
            prior(situation_of(config)),
            folder / "recommend",
            candidates=arguments.candidates,
            seeds=arguments.trial_seeds,
        )
        found = recommend(asked)
        wanted = Wanted(config, asked.variants, arguments.seeds, folder / "all", timed=False)
        results = compare_methods(wanted)
        method = found.verdict.method
        best = results.measured[0].label
        better = [
            one
            for one in results.pairs
            if one.significant and method in (one.first, one.second) and loses(one.to_json(), method, results.metric)
        ]
        told = {
            "number": number,
            "rows": rows,
            "rule": found.prior.method,
            "kind": found.verdict.kind,
            "method": method,
        }
        quality = {line.label: line.quality[results.metric].value for line in results.measured}
        write_json(folder / CASE, {**told, "best": best, "holds": not better, "quality": quality})
    show(arguments)


def loses(pair: dict[str, Any], method: str, metric: str) -> bool:
    """Whether a method is the worse one of a pair."""
    gain = pair["difference"]["value"] * (-1 if metric == "loss" else 1)
    return gain < 0 if pair["first"] == method else gain > 0


def case_table(cases: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each case, and how many hold."""
    yield "| case | rows | the rule | the trials | recommended | best of all on the test rows | no worse |"
    yield "|--:|--:|---|---|---|---|---|"
    for one in cases:
        named = [f"{one[key]} {one['quality'].get(one[key], float('nan')):.3f}" for key in ("rule", "method", "best")]
        cells = [
            str(one["number"]),
            str(one["rows"]),
            named[0],
            one["kind"],
            *named[1:],
            "yes" if one["holds"] else "no",
        ]
        yield f"| {' | '.join(cells)} |"
    yield f"\n{sum(one['holds'] for one in cases)} of {len(cases)} cases hold"


def show(arguments: argparse.Namespace) -> None:
    """Tables in Markdown of all that was measured."""
    cases = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(arguments.out.glob(f"case-*/{CASE}"))]
    if cases:
        print("\n".join(case_table(cases)))
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


PARTS = {"ranks": ranks, "methods": methods, "show": show}

if __name__ == "__main__":
    main()
