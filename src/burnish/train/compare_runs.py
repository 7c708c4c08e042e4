"""Two runs held against each other on the very same held-out rows, with paired tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from burnish.core.errors import UserError
from burnish.evaluate.classification import compare_classified
from burnish.evaluate.intervals import Floats
from burnish.evaluate.run import probabilities_of
from burnish.evaluate.scored import metrics_of
from burnish.evaluate.scored_intervals import paired_differences
from burnish.evaluate.text import paired_text, require_metrics
from burnish.train.folder import RunFolder, open_run

LEVEL = 0.05
LOWER_IS_BETTER = frozenset(("log_loss", "brier", "ece"))


@dataclass(frozen=True)
class HeldOut:
    """What a finished run answered.

    Attributes:
        path: Its folder.
        split: Name of the rows.
        rows: The lines of ``predictions.jsonl`` by their ids.
        sources: SHA-256 of every file of its data.
        metrics: Names of its text metrics.
    """

    path: Path
    split: str
    rows: Mapping[str, Mapping[str, Any]]
    sources: frozenset[str]
    metrics: Sequence[str]

    @property
    def digest(self) -> str:
        """SHA-256 of the ids and targets of all rows, in the order of the ids."""
        lines = "".join(f"{name}\0{self.rows[name]['target']}\n" for name in sorted(self.rows))
        return hashlib.sha256(lines.encode("utf-8", "backslashreplace")).hexdigest()

    @property
    def labels(self) -> list[str]:
        """Its classes, in order; empty for a run that has none."""
        first = next(iter(self.rows.values()), {})
        scores = first.get("tuned", {}).get("scores")
        return list(scores) if isinstance(scores, Mapping) else []


def read_held_out(path: Path) -> HeldOut:
    """The answers of a finished run.

    Raises:
        UserError: There is no run, or it is not finished.
    """
    folder: RunFolder = open_run(path)
    evaluation, rows = folder.read("evaluation.json"), folder.read_rows("predictions.jsonl")
    if not evaluation or not rows:
        raise UserError("this run has not been evaluated yet", where=str(path), fix=f"burnish resume {path}")
    data = folder.read("data.json") or {}
    sources = frozenset(str(s.get("sha256")) for s in data.get("sources", ()))
    tuned = evaluation.get("tuned", {})
    measured = {} if "unit" in tuned else tuned.get("metrics", {})  # a head's answers are no generated texts
    names = [n for n in measured if n in ("bleu", "chrf", "exact_match")]
    rouge = ["rouge"] if "rougeL" in measured else []
    return HeldOut(path, str(evaluation.get("split")), {str(r["id"]): r for r in rows}, sources, [*names, *rouge])


def compare_runs(first: Path, second: Path, seed: int = 0) -> dict[str, Any]:
    """The second run minus the first, in every metric that both have.

    Accuracy and exact match are tested by McNemar's exact test, everything else by the paired bootstrap: a difference
    is significant if its 95 % interval excludes zero.

    Args:
        first: A finished run.
        second: Another one, scored on the same rows.
        seed: Seed of the bootstrap.

    Raises:
        UserError: The runs were not scored on the same rows, or tell different classes apart.
    """
    runs = [read_held_out(first), read_held_out(second)]
    require_same_rows(*runs)
    names = sorted(runs[0].rows)
    result: dict[str, Any] = {
        "first": str(first),
        "second": str(second),
        "split": runs[0].split,
        "rows": len(names),
        "rows_sha256": runs[0].digest,
        "same_prompts": same_prompts(*runs),
    }
    compared = _classes if runs[0].labels and runs[1].labels else _texts
    return {**result, "metrics": compared(runs[0], runs[1], names, seed)}


def require_same_rows(first: HeldOut, second: HeldOut) -> None:
    """Refuse runs that were scored on different rows.

    Rows are the same if their ids and targets are, and either their prompts are too or all of them come from files with
    the same SHA-256: two recipes may word the prompt of one text differently.

    Raises:
        UserError: They are not.
    """
    where = f"{first.path} and {second.path}"
    fix = "give both recipes the same `data`, `split` and `seed`, or score both on one file as `data.test`"
    only = first.rows.keys() ^ second.rows.keys()
    if only:
        raise UserError(
            f"the runs were scored on different rows: {len(only)} are in one of them only, such as `{min(only)}`",
            where=where,
            fix=fix,
        )
    if first.digest != second.digest:
        odd = next(n for n in sorted(first.rows) if first.rows[n]["target"] != second.rows[n]["target"])
        raise UserError(f"row `{odd}` has another target in the second run", where=where, fix=fix)
    if not same_prompts(first, second) and first.sources != second.sources:
        raise UserError("rows of the same name come from files that differ", where=where, fix=fix)


def same_prompts(first: HeldOut, second: HeldOut) -> bool:
    """Whether both models were given the same texts, to the letter."""
    return all(row["prompt"] == second.rows[name]["prompt"] for name, row in first.rows.items())


def _classes(first: HeldOut, second: HeldOut, names: list[str], seed: int) -> list[dict[str, Any]]:
    labels = first.labels
    if sorted(labels) != sorted(second.labels):
        raise UserError(
            f"the runs tell different classes apart: {', '.join(labels)}; {', '.join(second.labels)}",
            where=f"{first.path} and {second.path}",
            fix="compare runs of the same classes",
        )
    shares = [_probabilities(one, names, labels) for one in (first, second)]
    places = {label.strip(): i for i, label in enumerate(labels)}
    true = [places[str(first.rows[n]["target"]).strip()] for n in names]
    values = [metrics_of(one, true) for one in shares]
    paired = paired_differences(shares[0], shares[1], true, seed)
    right = [(one.argmax(1) == np.asarray(true)).tolist() for one in shares]
    paired["accuracy"] = compare_classified(*right)
    del paired["micro_f1"]
    return [_judged(name, values[0][name], values[1][name], row) for name, row in paired.items()]


def _probabilities(one: HeldOut, names: list[str], labels: list[str]) -> Floats:
    scores = [[float(one.rows[n]["tuned"]["scores"][label]) for label in labels] for n in names]
    return probabilities_of(np.asarray(scores))


def _texts(first: HeldOut, second: HeldOut, names: list[str], seed: int) -> list[dict[str, Any]]:
    shared = [m for m in first.metrics if m in second.metrics]
    if not shared:
        raise UserError(
            "the runs have no metric in common that can be compared row by row",
            where=f"{first.path} and {second.path}",
            fix="compare runs of `task: classification`, with `evaluate.choices`, or with the same `evaluate.metrics` "
            "of exact_match, bleu, chrf and rouge",
        )
    require_metrics(shared)
    answers = [[str(one.rows[n]["tuned"].get("text", "")) for n in names] for one in (first, second)]
    targets = [str(first.rows[n]["target"]) for n in names]
    rows = {k: v for m in shared for k, v in paired_text(m, answers[0], answers[1], targets, seed).items()}
    return [_judged(name, row.pop("first"), row.pop("second"), row) for name, row in rows.items()]


def _judged(name: str, first: float, second: float, row: Mapping[str, float]) -> dict[str, Any]:
    p, low, high = row.get("p_value"), row.get("low"), row.get("high")
    if p is not None:
        significant = p < LEVEL
    else:
        significant = low is not None and high is not None and (low > 0 or high < 0)
    gain = (row["difference"] > 0) != (name in LOWER_IS_BETTER)
    better = ("second" if gain else "first") if significant else None
    return {"name": name, "first": first, "second": second, **row, "significant": significant, "better": better}
