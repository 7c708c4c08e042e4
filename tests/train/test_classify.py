"""A classification from recipe to hand-over on tiny models: what is trained, kept, read back, merged and refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from burnish.cli.main import call
from burnish.core.errors import TrainingStopped, UserError
from burnish.core.events import Action, Event, Stepped
from burnish.core.files import read_lines
from burnish.models.classifier import class_logits
from burnish.models.forward import hidden_states
from burnish.train.config import RunConfig
from burnish.train.export import compare_export
from burnish.train.handover import load_handed_over, open_model
from burnish.train.merging import merge_run
from burnish.train.run import resume_run, start_run
from burnish.train.setup import Setup, set_up
from burnish.train.verify import verify_run
from tests.support.recipes import LABELS, configured, save_tiny, sentiment_rows, write_rows
from tests.support.tiny import VOCABULARY


def classifying(folder: Path, *, rows: int = 60, **sections: Any) -> RunConfig:
    """The recipe of the tests as a classification of the same texts; LoRA on BERT unless ``sections`` say otherwise."""
    values = {"model": "bert", "task": "classification", "train": {"learning_rate": 0.005}, **sections}
    config = configured(folder, rows=rows, **values)
    labelled = [{"text": r["prompt"], "label": r["completion"].strip()} for r in sentiment_rows(rows)]
    write_rows(folder / "rows.jsonl", labelled)
    return config


def metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_lines(folder / "metrics.jsonl") if row["kind"] == kind]


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("model", ["bert", "llama", "gpt2"])
def test_a_run_from_end_to_end(tmp_path: Path, model: str, method: str) -> None:
    """Packed rows; base and tuned on 12 rows; the head is trained, kept, and read back with the model."""
    rate = {"lora": 0.005, "full": 0.0005}[method]
    result = start_run(classifying(tmp_path, model=model, adapter=method, train={"learning_rate": rate}))
    evaluation = json.loads((result.folder / "evaluation.json").read_text())
    assert evaluation["rows"] == 12 and evaluation["tuned"]["confusion"]["labels"] == list(LABELS)
    assert result.tuned["loss"] < result.base["loss"] and "perplexity" not in result.tuned
    assert evaluation["majority"]["accuracy"] == pytest.approx(4 / 12, abs=0.4) and evaluation["new_head"]
    described = json.loads((result.folder / "model.json").read_text())
    assert described["task"] == "classification" and described["layout"] == "packed"
    assert described["head"]["pooling"] == ("mean" if model == "bert" else "last")
    assert described["sites"][-1]["role"] == "head"
    row = read_lines(result.folder / "predictions.jsonl")[0]
    assert sum(row["tuned"]["probabilities"].values()) == pytest.approx(1.0) and row["target"] in LABELS
    assert read_lines(result.folder / "samples.jsonl") == []
    checks = verify_run(result.folder)
    assert len(checks) >= 4 and all(check.passed for check in checks), checks
    loaded = load_handed_over(result.folder)
    assert loaded.classifier is not None and loaded.classifier.labels == LABELS


def test_the_rows_are_learnt(tmp_path: Path) -> None:
    """The label follows from the words: a random BERT goes from chance, a third, to all 12 test rows."""
    settings = {"train": {"max_steps": 60, "learning_rate": 0.003}, "evaluate": {"every_steps": 30}}
    config = classifying(tmp_path, rows=300, adapter="full", **settings)
    save_tiny(tmp_path / "model", "bert", spread=1.0)
    assert start_run(config).tuned["accuracy"] == 1.0


@pytest.mark.parametrize(("model", "method", "cut"), [("bert", "lora", 2), ("bert", "full", 3), ("llama", "lora", 5)])
def test_resuming_is_exact(tmp_path: Path, model: str, method: str, cut: int) -> None:
    """Stopped and resumed, the run ends with the weights, moments, head and log of one in one go, bit for bit.

    Dropout in the model, in the adapter and before the head; several micro-batches in an update.
    """
    adapter = {"method": "lora", "rank": 4, "dropout": 0.2} if method == "lora" else "full"
    settings: dict[str, Any] = {
        "model": model, "adapter": adapter, "train": {"max_steps": 7, "num_epochs": 3, "learning_rate": 0.005},
        "batches": {"micro_batch_tokens": 90}, "task": {"kind": "classification", "dropout": 0.3},
        "early_stopping": {"metric": "accuracy"},
    }  # fmt: skip
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    configs = [classifying(tmp_path / name, **settings) for name in ("a", "b")]
    for name in ("a", "b"):
        save_tiny(tmp_path / name / "model", model, dropout=0.1)

    def stop(event: Event) -> Action | None:
        if isinstance(event, Stepped) and event.step == cut:
            os.kill(os.getpid(), signal.SIGINT)
        return None

    whole, stopped = start_run(configs[0]), start_run(configs[1], callbacks=[stop])
    assert stopped.reason == "interrupted" and stopped.step == cut
    resumed = resume_run(stopped.folder)
    assert resumed.tuned == whole.tuned and resumed.base == whole.base and resumed.best_step == whole.best_step
    files = [f"checkpoints/step-000007/{name}.safetensors" for name in ("trainable", "optimizer")]
    for file in [*files, "final/classifier.safetensors"]:
        assert (resumed.folder / file).read_bytes() == (whole.folder / file).read_bytes()
    assert "classifier.weight" in load_file(whole.folder / files[0])
    for kind in ("train", "validation"):
        logs = [
            [{k: v for k, v in r.items() if "second" not in k} for r in metrics(x.folder, kind)]
            for x in (whole, resumed)
        ]
        assert logs[0] == logs[1]


def test_found_classes_are_written_into_the_recipe(tmp_path: Path) -> None:
    """So that a later look at other rows numbers them alike."""
    result = start_run(classifying(tmp_path))
    assert "labels:\n  - negative\n  - neutral\n  - positive\n" in (result.folder / "recipe.yaml").read_text()
    write_rows(tmp_path / "other.jsonl", [{"text": f"news {i}", "label": LABELS[i % 2]} for i in range(9)])
    other = [f"data.validation={{path: {tmp_path / 'other.jsonl'}}}", "data.split.validation=0"]
    out = tmp_path / "answers.jsonl"
    assert call(["evaluate", str(result.folder), *other, "--split", "validation", "--predictions", str(out)]) == 0
    assert {row["model"]["predicted"] for row in read_lines(out)} <= set(LABELS)


def test_the_adapter_is_pefts_and_the_head_lies_beside_it(tmp_path: Path) -> None:
    """`peft` on `AutoModel` gives the hidden states that our head reads, to 1e-5."""
    result = start_run(classifying(tmp_path))
    loaded = load_handed_over(result.folder, dtype=torch.float32, device=torch.device("cpu"))
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "model"), result.folder / "final").eval()
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        own = hidden_states(loaded.model, {"input_ids": ids})
        torch.testing.assert_close(theirs(input_ids=ids).last_hidden_state, own, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", ["bert", "llama", "gpt2"])
def test_merged_models_answer_alike(tmp_path: Path, model: str) -> None:
    """A decoder becomes the class of `transformers`; a mean over BERT has none there, which the report says."""
    result = start_run(classifying(tmp_path, model=model))
    report = merge_run(result.folder, tmp_path / "merged")
    assert report.difference < 1e-4 * max(1.0, report.scale) < report.effect + 1
    assert report.before["accuracy"] == report.after["accuracy"]
    assert ("no class" in report.read_by) == (model == "bert")
    tuned, merged = load_handed_over(result.folder, dtype=torch.float32), open_model(str(tmp_path / "merged"))
    ids = torch.randint(4, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = [class_logits(m.model, m.classifier, {"input_ids": ids}) for m in (tuned, merged)]  # type: ignore[arg-type]
        torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-4)
        if model != "bert":
            hugging = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
            torch.testing.assert_close(hugging(input_ids=ids).logits, logits[0], rtol=0, atol=1e-4)
    compared = compare_export(result.folder, str(tmp_path / "merged"))
    assert compared.passed and compared.prompts == 8


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_classifier_writes_no_text(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = start_run(classifying(tmp_path))
    arguments = [command, str(result.folder), *(["Hello"] if command == "generate" else [])]
    assert call(arguments) == 2
    said = capsys.readouterr().err
    assert "trained to classify" in said and "burnish classify" in said
    assert call(["classify", str(result.folder), "what a wonderful day", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    loaded = load_handed_over(result.folder)
    ids = torch.tensor([loaded.tokenizer("what a wonderful day").input_ids])
    with torch.no_grad():
        expected = class_logits(loaded.model, loaded.classifier, {"input_ids": ids}).softmax(-1)[0]  # type: ignore[arg-type]
    assert list(answer["probabilities"].values()) == pytest.approx(expected.tolist(), rel=1e-5)
    assert answer["label"] == LABELS[int(expected.argmax())]


def test_an_untrained_head_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the head is left out of what is trained; and a recipe's model cannot be scored before it has learnt."""
    config = classifying(tmp_path)
    assert call(["evaluate", str(write_recipe(tmp_path, config))]) == 2
    monkeypatch.setattr(Setup, "trainable", property(lambda self: self.attached.trainable()))
    with pytest.raises(UserError, match=r"head was newly made and is not trained.*classifier\.weight"):
        set_up(config)


def write_recipe(folder: Path, config: RunConfig) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    return path


def test_a_head_without_a_gradient_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the head's weight is cut from the graph; the first updates name it."""
    real = torch.nn.functional.linear

    def cut(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return real(x, weight.detach() if weight.shape[0] == 3 else weight, bias)

    monkeypatch.setattr("burnish.models.classifier.F.linear", cut)
    with pytest.raises(TrainingStopped, match="no gradient") as caught:
        start_run(classifying(tmp_path))
    assert "classifier.weight" in caught.value.where


def test_a_head_that_is_lost_or_changed_is_named(tmp_path: Path) -> None:
    """One number of the head: `verify` sees it. No head at all: nothing is loaded with a made-up one."""
    result = start_run(classifying(tmp_path))
    file = result.folder / "final/classifier.safetensors"
    tensors = load_file(file)
    tensors["weight"][0, 0] += 1e-4
    save_file(tensors, file)
    (wrong,) = [check for check in verify_run(result.folder) if not check.passed][:1]
    assert "classifier.weight" in wrong.detail
    for name in ("classifier.safetensors", "classifier.json"):
        (result.folder / "final" / name).unlink()
    with pytest.raises(UserError, match="classification head of this run is missing"):
        load_handed_over(result.folder)


def test_a_refused_update_can_be_replayed(tmp_path: Path) -> None:
    """A learning rate that breaks the weights: the batch is kept, and its rows can be looked at one by one."""
    train = {"learning_rate": 1e30, "max_grad_norm": None, "warmup_ratio": 0.0}
    with pytest.raises(TrainingStopped):
        start_run(classifying(tmp_path, train=train))
    folder = tmp_path / "runs/run"
    assert call(["replay-batch", str(folder)]) == 0


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"evaluate": {"choices": LABELS}}, "scored by its head"),
        ({"task": {"kind": "classification", "labels": ["a"]}}, "at least two"),
        ({"task": {"kind": "classification", "labels": [True, False]}}, "quote these labels"),
        ({"task": {"kind": "classification", "focal_gamma": 2.0, "label_smoothing": 0.1}}, "contradict"),
        ({"task": {"kind": "sorting"}}, "sorting"),
        ({"data": {"render": {"max_length": 500}}}, "128 positions"),
        ({"task": {"kind": "classification", "pooling": "pooler"}}, "no pooler"),
        ({"model": "t5"}, "encoder-decoder"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, settings: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        set_up(classifying(tmp_path, **settings))


def test_losses_that_weigh_rows_run(tmp_path: Path) -> None:
    """Balanced weights, smoothing and focal loss train; the validation loss stays the plain one."""
    for number, task in enumerate(({"class_weights": "balanced", "label_smoothing": 0.1}, {"focal_gamma": 2.0})):
        (tmp_path / str(number)).mkdir()
        result = start_run(classifying(tmp_path / str(number), task={"kind": "classification", **task}))
        assert result.tuned["loss"] < result.base["loss"]
