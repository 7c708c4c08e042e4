"""All models of the experiment on the same 4,000 tweets, beside TF-IDF with logistic regression, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from burnish.core.config import build
from burnish.core.files import read_lines, write_atomic, write_json
from burnish.data.config import SplitConfig
from burnish.data.names import RowNames
from burnish.data.splits import Values, choose_rows, split_rows
from burnish.evaluate.classification import Classified
from burnish.train.folder import RunFolder
from burnish.trials.paired import Answers, paired_difference, verdict

SEED = 0
FEW = 1000


@dataclass(frozen=True)
class Scored:
    """One line of the comparison.

    Attributes:
        name: The recipe, or the baseline.
        what: What was trained, in a few words.
        rows: Training rows, new ones not counted.
        new: Rows that augmentation added.
        updates: Updates until the handed-over weights; 0 for a baseline.
        seconds: Training time; 0 where it was not measured.
        answers: On the test rows.
    """

    name: str
    what: str
    rows: int
    new: int
    updates: int
    seconds: float
    answers: Answers

    def metrics(self) -> dict[str, dict[str, float]]:
        """Accuracy and macro-F1 with their intervals."""
        counted = Classified.count(self.answers.labels, self.answers.true.tolist(), self.answers.predicted.tolist())
        return counted.metrics(SEED)


def compare(output: Path, tweets: Path, recipes: Sequence[str]) -> str:
    """Write ``comparison.json`` and ``comparison.md`` into a folder, and return the latter.

    Recipes that have not been run, or not to their end, are named as such.
    """
    done = [name for name in recipes if (output / name / "evaluation.json").is_file()]
    runs = [scored_run(RunFolder(output / name)) for name in done]
    if not runs:
        return "no run is complete yet"
    split = RunFolder(output / done[0]).read("data.json")["splits"]
    held_out = {"validation": split["validation"]["rows"], "test": split["test"]["rows"]}
    baselines = [baseline(tweets, held_out, limit) for limit in (FEW, None)]
    lines = [*baselines, *runs]
    against = {line.name: _against(line, baselines) for line in runs}
    absent = [name for name in recipes if name not in done]
    text = page(lines, against, absent, held_out["test"])
    write_atomic(output / "comparison.md", text)
    content = [
        {"name": s.name, "what": s.what, "rows": s.rows, "new": s.new, "updates": s.updates, "seconds": s.seconds,
         "metrics": s.metrics(), "against_tf_idf": against.get(s.name)}
        for s in lines
    ]  # fmt: skip
    write_json(output / "comparison.json", {"test_rows": held_out["test"], "models": content, "not_run": absent})
    return text


def scored_run(folder: RunFolder) -> Scored:
    """A complete run."""
    data, model, best = folder.read("data.json"), folder.read("model.json"), folder.read("best.json")
    finished = [line for line in folder.read_rows("metrics.jsonl") if line.get("kind") == "finished"]
    new = data.get("augment", {}).get("added", 0)
    return Scored(
        name=folder.path.name,
        what=f"{model['trainable']:,} of {model['parameters']:,} parameters",
        rows=data["splits"]["train"]["rows"] - new,
        new=new,
        updates=best["step"],
        seconds=finished[-1]["training_seconds"] if finished else 0.0,
        answers=Answers.of(folder.read_rows("predictions.jsonl"), "tuned"),
    )


def baseline(tweets: Path, held_out: dict[str, int], limit: int | None) -> Scored:
    """TF-IDF of words and pairs of words with logistic regression, on the split of the recipes."""
    rows = read_lines(tweets)
    parts = split_of(rows, held_out)
    chosen = choose_rows(len(parts["train"]), limit or len(parts["train"]), seed=SEED)
    train = [parts["train"][i] for i in chosen]
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    given = vectors.fit_transform(rows[i]["text"] for i in train)
    model = LogisticRegression(C=3.0, max_iter=1000).fit(given, [rows[i]["label"] for i in train])
    predicted = model.predict(vectors.transform(rows[i]["text"] for i in parts["test"]))
    lines = [
        {"id": f"tweets.jsonl:{i + 1}", "target": rows[i]["label"], "model": {"predicted": str(answer)}}
        for i, answer in zip(parts["test"], predicted, strict=True)
    ]
    name = f"TF-IDF + logistic regression, {len(train):,} rows"
    return Scored(name, f"{given.shape[1]:,} words and pairs", len(train), 0, 0, 0.0, Answers.of(lines))


def split_of(rows: Sequence[dict[str, Any]], held_out: dict[str, int]) -> dict[str, list[int]]:
    """The places of the rows of each split, by the very function that splits a recipe's rows."""
    labels = sorted({row["label"] for row in rows})
    codes = [labels.index(row["label"]) for row in rows]
    names = RowNames.of(f"tweets.jsonl:{i + 1}" for i in range(len(rows)))
    values = Values(np.asarray(codes, dtype=np.int32), labels, names)
    config = build(SplitConfig, {**held_out, "stratify": "label", "seed": SEED})
    return {name: part.tolist() for name, part in split_rows(len(rows), config, seed=SEED, values=values).items()}


def page(
    lines: Sequence[Scored], against: dict[str, tuple[float, float, float, str]], absent: Sequence[str], test: int
) -> str:
    """The comparison as Markdown."""
    text = [
        f"On the same {test:,} held-out tweets, 95 % intervals in brackets:",
        "",
        "| model | trained | rows (new) | updates | minutes | macro-F1 | accuracy | macro-F1 against TF-IDF |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        metrics = line.metrics()
        cells = [line.name, line.what, f"{line.rows:,}" + (f" (+{line.new:,})" if line.new else "")]
        cells += [f"{line.updates:,}", f"{line.seconds / 60:.1f}"] if line.updates else ["", ""]
        cells += [_interval(metrics["macro_f1"]), _interval(metrics["accuracy"])]
        if line.name in against:
            difference, low, high, said = against[line.name]
            cells.append(f"{difference:+.3f} ({low:+.3f} to {high:+.3f}): {said}")
        else:
            cells.append("")
        text.append("| " + " | ".join(cells) + " |")
    if absent:
        text += ["", "Not run, or not to the end: " + ", ".join(f"`{name}`" for name in absent) + "."]
    return "\n".join(text) + "\n"


def _interval(metric: dict[str, float]) -> str:
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"


def _against(line: Scored, baselines: Sequence[Scored]) -> tuple[float, float, float, str]:
    """Against the baseline with as many rows."""
    peer = next((b for b in baselines if b.rows == line.rows), baselines[-1])
    ours = _in_order(line.answers, peer.answers)
    difference, low, high = paired_difference([peer.answers], [ours], SEED)
    said = {"helps": "better", "harms": "worse"}.get(verdict(low, high), "no difference shown")
    return difference, low, high, said


def _in_order(answers: Answers, like: Answers) -> Answers:
    """The same answers in the order of other rows; files may be named by longer paths."""
    place = {name.rpartition("/")[2]: i for i, name in enumerate(answers.ids)}
    order = [place[name] for name in like.ids]
    return Answers(answers.labels, answers.true[order], answers.predicted[order], like.ids)
