"""Several tasks with a head each on one encoder: mixed rows, own classes, metrics by task, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from torch import nn
from transformers import AutoModel

from burnish.cli.main import call
from burnish.core.errors import TrainingStopped, UserError
from burnish.core.files import read_lines
from burnish.core.types import Batch
from burnish.models.classifier import class_logits
from burnish.objectives.classification import balanced_weights, smoothed_over_own
from burnish.ops.own_classes import NEVER, own_logits, own_mask
from burnish.report.page import build_report
from burnish.train import setup as preparation
from burnish.train.config import RunConfig
from burnish.train.handover import load_handed_over, open_model
from burnish.train.liveness import Liveness, Watched
from burnish.train.merging import merge_run
from burnish.train.run import resume_run, start_run
from burnish.train.setup import Setup, set_up
from burnish.train.verify import verify_run
from tests.support.recipes import LABELS, configured, sentiment_rows, write_rows

MOODS = tuple(f"mood/{label}" for label in LABELS)
CLASSES = ("length/long", "length/short", *MOODS)


def two_heads(folder: Path, *, task: dict[str, Any] | None = None, **sections: Any) -> RunConfig:
    """The mood of 45 texts (three classes), and whether they are long (two): the same texts, other answers."""
    texts = [(row["prompt"], row["completion"].strip()) for row in sentiment_rows(45)]
    moods = [{"text": text, "label": label} for text, label in texts]
    lengths = [{"text": text, "label": "long" if len(text.split()) > 9 else "short"} for text, _ in texts]
    sources = [
        {"path": str(write_rows(folder / f"{name}.jsonl", rows)), "task": name}
        for name, rows in (("mood", moods), ("length", lengths))
    ]
    data = {"train": sources, "split": {"validation": 12, "test": 24}}
    values = {"model": "bert", "train": {"learning_rate": 0.005, "max_steps": 8}, "data": data, **sections}
    return configured(folder, task={"kind": "classification", **(task or {})}, **values)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_run(two_heads(tmp_path_factory.mktemp("own"), task={"label_smoothing": 0.1})).folder


# --- the numbers ------------------------------------------------------------------------------------------------------


def test_a_row_has_no_chance_of_another_tasks_class() -> None:
    """A softmax over the masked logits is the softmax over the row's own, and zero elsewhere, in the last digit."""
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    tasks = ("a", "b", "a", "b", "b")
    masked = own_logits(logits, tasks, ("b", "a", "b"))
    shares = masked.softmax(-1)
    assert torch.equal(own_mask(tasks, ("a",), logits.device), torch.tensor([[True, False, True, False, False]]))
    torch.testing.assert_close(shares[1, [0, 2]], logits[1, [0, 2]].softmax(-1), rtol=0, atol=0)
    assert not shares[1, [1, 3, 4]].any() and not shares[0, [0, 2]].any()
    F.cross_entropy(masked, torch.tensor([1, 2, 4])).backward()
    assert logits.grad is not None and not logits.grad[1, [1, 3, 4]].any() and logits.grad[1, [0, 2]].all()


def test_smoothing_is_that_of_a_head_with_the_own_classes_only() -> None:
    """PyTorch's smoothed and weighed loss of each row over its own columns alone."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.5, 2.0, 1.5, 0.7, 1.1], dtype=torch.float64)
    tasks, rows, labels = ("a", "a", "b", "b", "b"), ("a", "b", "b", "a"), torch.tensor([1, 2, 4, 0])
    own = own_mask(tasks, rows, logits.device)
    for w in (None, weights):
        found = smoothed_over_own(own_logits(logits, tasks, rows), labels, own, 0.2, w)
        for row, (task, label) in enumerate(zip(rows, labels.tolist(), strict=True)):
            on = [k for k, t in enumerate(tasks) if t == task]
            expected = F.cross_entropy(
                logits[row, on][None],
                torch.tensor([on.index(label)]),
                weight=None if w is None else w[on],
                label_smoothing=0.2,
                reduction="none",
            )
            torch.testing.assert_close(found[row], expected[0])


def test_class_weights_are_balanced_in_each_task() -> None:
    """Rows 3, 1 of one task: 4/(2*3), 4/(2*1). Rows 2, 2, 0 of the other: 1, 1, and 1 for what has none."""
    labels = np.array([0, 0, 0, 1, 2, 2, 3, 3])
    assert balanced_weights(labels, 5, ("a", "a", "b", "b", "b")) == pytest.approx([2 / 3, 2.0, 1.0, 1.0, 1.0])


# --- a run ------------------------------------------------------------------------------------------------------------


def test_mixed_rows_have_the_logits_that_they_have_alone(tmp_path: Path) -> None:
    """A packed batch of both tasks against each row by itself; classes of the other task have ``NEVER``."""
    setup = set_up(two_heads(tmp_path))
    head, model = setup.loaded.classifier, setup.loaded.model.eval()
    batch = setup.updates[0][0]
    assert head is not None and head.labels == CLASSES and set(batch["tasks"]) == {"mood", "length"}
    with torch.no_grad():
        mixed = class_logits(model, head, batch)
        for place, row in enumerate(batch["row_ids"]):
            ids, task = setup.prepared.train.row(row)[0], batch["tasks"][place]
            alone: Batch = {"input_ids": torch.tensor(ids[None].astype("int64")), "tasks": (task,)}
            torch.testing.assert_close(mixed[place], class_logits(model, head, alone)[0], rtol=0, atol=1e-5)
            other = [k for k, name in enumerate(CLASSES) if not name.startswith(f"{task}/")]
            assert mixed[place, other].eq(NEVER).all()
            assert CLASSES[int(batch["labels"][place])].startswith(f"{task}/")


def test_it_trains_hands_over_and_says_each_task(run: Path) -> None:
    """Each task has its own table of metrics; macro-F1 is that of `scikit-learn` on its rows and classes alone."""
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["tuned"]["metrics"]["loss"]["value"] < evaluation["base"]["metrics"]["loss"]["value"]
    assert "roc_auc" not in evaluation["tuned"]["metrics"] and "mcc" not in evaluation["comparison"]
    rows = read_lines(run / "predictions.jsonl")
    assert sum(part["rows"] for part in evaluation["tasks"].values()) == len(rows) == 24
    for task, part in evaluation["tasks"].items():
        own = [row for row in rows if row["task"] == task]
        names = [name for name in CLASSES if name.startswith(f"{task}/")]
        true, said = [row["target"] for row in own], [row["tuned"]["predicted"] for row in own]
        assert all(list(row["tuned"]["probabilities"]) == names for row in own) and set(true) <= set(names)
        assert all(sum(row["tuned"]["probabilities"].values()) == pytest.approx(1) for row in own)
        assert part["tuned"]["metrics"]["macro_f1"]["value"] == pytest.approx(f1_score(true, said, average="macro"))
        assert part["tuned"]["confusion"]["labels"] == [name.split("/")[1] for name in names]
        assert {"roc_auc", "mcc"} <= part["tuned"]["metrics"].keys() and "macro_f1" in part["comparison"]
        assert part["majority"]["label"] in part["tuned"]["confusion"]["labels"]
    validation = [row for row in read_lines(run / "metrics.jsonl") if row["kind"] == "validation"]
    assert {"macro_f1/mood", "accuracy/length"} <= validation[-1].keys()
    assert all(check.passed for check in verify_run(run))
    build_report(run)
    page = (run / "report.html").read_text()
    assert "Metrics of the task mood" in page and "length: " in page
    assert "mood/neutral" in (run / "recipe.yaml").read_text()


def test_it_answers_for_a_task(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Probabilities are those of the task's classes, under their own names, as computed by hand from the weights."""
    assert call(["classify", str(run), "what a wonderful day!", "--task", "mood", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["task"] == "mood" and list(said["probabilities"]) == list(LABELS)
    loaded = load_handed_over(run, dtype=torch.float32)
    assert loaded.classifier is not None
    ids = loaded.tokenizer("what a wonderful day!", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        raw = class_logits(loaded.model, loaded.classifier, {"input_ids": ids})[0]
    torch.testing.assert_close(torch.tensor(list(said["probabilities"].values())), raw[2:].softmax(-1))
    assert call(["classify", str(run), "one two"]) == 2
    assert "--task NAME" in capsys.readouterr().err
    assert call(["classify", str(run), "one two", "--task", "mod"]) == 2
    assert "nearest: `mood`" in capsys.readouterr().err


def test_it_is_evaluated_again_with_its_errors(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same numbers from the files; the table of errors has the probabilities of a row's own classes only."""
    assert call(["evaluate", str(run), "--json", "--errors", "--out", str(tmp_path / "errors")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    first = json.loads((run / "evaluation.json").read_text())
    assert found["tasks"]["mood"]["metrics"]["accuracy"] == first["tasks"]["mood"]["tuned"]["metrics"]["accuracy"]
    with (tmp_path / "errors" / "errors.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            assert row["true"].startswith(f"{row['task']}/") and row["predicted"].startswith(f"{row['task']}/")
            filled = [name for name in CLASSES if row.get(f"p({name})")]
            assert filled == [name for name in CLASSES if name.startswith(f"{row['task']}/")]
    assert '"task":"' in (tmp_path / "errors" / "errors.html").read_text()


def test_it_is_merged_and_read_by_its_parts(run: Path, tmp_path: Path) -> None:
    """The merged folder gives the run's logits; the base is `transformers`', and the classes' tasks are in the file."""
    merge_run(run, tmp_path / "merged")
    ours, merged = load_handed_over(run, dtype=torch.float32), open_model(str(tmp_path / "merged"), dtype=torch.float32)
    assert merged.classifier is not None and ours.classifier is not None
    batch: Batch = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "tasks": ("length",)}
    with torch.no_grad():
        both = [class_logits(one.model, one.classifier, batch) for one in (ours, merged)]  # type: ignore[arg-type]
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=1e-4)
    assert both[1][0, 2:].eq(NEVER).all()
    described = json.loads((tmp_path / "merged" / "classifier.json").read_text())
    assert (
        described["class_tasks"] == ["length"] * 2 + ["mood"] * 3
        and "softmax over those of one" in described["read_by"]
    )
    assert AutoModel.from_pretrained(tmp_path / "merged") is not None
    assert call(["classify", str(tmp_path / "merged"), "one two", "--task", "length"]) == 0


def test_resuming_is_exact_with_parts_of_a_task_beside(tmp_path: Path) -> None:
    """A prompt for one task only, LoRA and heads: cut off after 5 of 8 updates and resumed, every bit is the same."""
    adapter = [{"method": "lora", "rank": 2}, {"method": "prompt", "num_virtual_tokens": 2, "tasks": ["mood"]}]
    whole = start_run(two_heads(tmp_path, adapter=adapter, name="whole")).folder
    cut = two_heads(tmp_path, adapter=adapter, name="cut")
    with pytest.raises(RuntimeError, match="power"):
        start_run(cut, callbacks=[_power_cut])
    resumed = resume_run(tmp_path / "runs" / "cut").folder
    for name in ("adapter.safetensors", "classifier.safetensors"):
        first, second = (load_file(folder / "final" / name) for folder in (whole, resumed))
        assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def _power_cut(event: Any) -> None:
    if type(event).__name__ == "Stepped" and event.step == 5:
        raise RuntimeError("power")


def test_one_head_of_all_classes_when_asked(tmp_path: Path) -> None:
    """`heads: shared` is what there was before: labels as they are, one softmax, no table by task."""
    setup = set_up(two_heads(tmp_path, task={"heads": "shared"}))
    head = setup.loaded.classifier
    assert (
        head is not None
        and not head.class_tasks
        and head.labels == ("long", "negative", "neutral", "positive", "short")
    )


# --- what does not train ----------------------------------------------------------------------------------------------


def test_a_dead_part_of_a_task_is_named_when_its_rows_have_come() -> None:
    """Rows 0 and 1 are of `a`, row 2 of `b`, whose gradient is cut: the third update with a row of `b` says so."""
    parameter = nn.Parameter(torch.ones(3, 2))
    watched = [
        Watched("w, task a", parameter, frozenset("a"), (0, 1)),
        Watched("w, task b", parameter, frozenset("b"), (2,)),
    ]
    watch = Liveness(watched, updates=20)

    def update(*tasks: str) -> None:
        parameter.grad = torch.ones(3, 2)
        parameter.grad[2] = 0
        watch.saw_gradients(tasks)
        with torch.no_grad():
            parameter.sub_(parameter.grad * 0.1)
        watch.updated(0.1)

    for _ in range(5):
        update("a")
    update("a", "b")
    update("b")
    with pytest.raises(TrainingStopped, match="had no gradient in the first updates with rows of the task b") as caught:
        update("b")
    assert caught.value.where == "w, task b"


@pytest.mark.parametrize("part", ["head", "prompt"])
def test_a_dead_part_of_a_task_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """A head whose rows for one task, or a prompt for one task, are cut from the graph: a normal loss, and refused."""
    adapter = [{"method": "lora", "rank": 2}, {"method": "prompt", "num_virtual_tokens": 2, "tasks": ["length"]}]
    config = two_heads(tmp_path, adapter=adapter)
    made = preparation.Setup.prepare_adapters

    def planted(setup: Setup) -> None:
        made(setup)
        head = setup.loaded.classifier
        assert head is not None
        if part == "head":
            kept = torch.tensor([[0.0], [0.0], [1.0], [1.0], [1.0]])
            head.weight.register_hook(lambda gradient: gradient * kept)
        else:
            for name, parameter in setup.attached.trainable("prompt"):
                assert "prompt" in name
                parameter.register_hook(torch.zeros_like)

    monkeypatch.setattr(preparation.Setup, "prepare_adapters", planted)
    with pytest.raises(TrainingStopped, match="with rows of the task length") as caught:
        start_run(config)
    assert ("classifier.weight, task length" if part == "head" else "prompt") in caught.value.where


# --- what is refused --------------------------------------------------------------------------------------------------


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("one task", {"task": {"heads": "own"}}, "needs two tasks"),
    ("a nameless source", {}, "a source names no task"),
    ("a slash", {}, "`a/b` cannot have classes of its own"),
    ("one class", {}, "training rows of the task `length` have 1"),
    ("a stray label", {"task": {"labels": [*CLASSES, "happy"]}}, "the class `happy` is of no task"),
]


@pytest.mark.parametrize(("fault", "sections", "what"), REFUSED, ids=[fault for fault, _, _ in REFUSED])
def test_what_is_refused(tmp_path: Path, fault: str, sections: dict[str, Any], what: str) -> None:
    config = two_heads(tmp_path, **sections)
    sources = [s.model_dump(exclude_unset=True) for s in config.data.train_sources]
    if fault == "one task":
        sources = sources[:1]
    elif fault == "a nameless source":
        sources.append({"path": sources[0]["path"]})
    elif fault == "a slash":
        sources[1]["task"] = "a/b"
    elif fault == "one class":
        rows = [{"text": f"text {i}", "label": "long"} for i in range(45)]
        write_rows(tmp_path / "length.jsonl", rows)
    data = {"train": sources, "split": {"validation": 12, "test": 24}}
    with pytest.raises(UserError, match=what):
        set_up(two_heads(tmp_path, **{**sections, "data": data}) if fault != "one class" else config)


def test_heads_of_tasks_are_for_one_class_a_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one class a row"):
        two_heads(tmp_path, task={"heads": "own", "multi_label": True})
