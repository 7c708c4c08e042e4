"""Replayed rows in a run: what is mixed in, what its loss is, that it resumes to the bit, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from burnish.checkpoint.store import CheckpointStore
from burnish.cli.main import call
from burnish.core.errors import TrainingStopped, UserError
from burnish.core.events import Event, Stepped, Stop
from burnish.core.types import Batch
from burnish.data.inspect import inspect_rows, view
from burnish.train import mixed
from burnish.train.folder import RunFolder
from burnish.train.loop import backward, count_units
from burnish.train.mixed import MixedUpdates
from burnish.train.run import make_job, resume_run, start_run
from burnish.train.score import Scorer
from burnish.train.setup import Setup, set_up
from burnish.train.stopped import replay
from burnish.train.tasks import read_data
from tests.support.recipes import LABELS, configured, sentiment_rows, write_rows


def is_replayed(batch: Batch) -> bool:
    return batch.get("source") == "replay"


WORDS = ("one", "two", "three", "four", "five")
TEXTS = [{"text": f"{word} the cat sat on the mat and looked at the dog"} for word in WORDS]


def general(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return str(write_rows(folder / "general.jsonl", TEXTS))


def made(folder: Path, replay: dict[str, Any], **sections: Any) -> Setup:
    data = {"replay": {"path": general(folder), **replay}, **sections.pop("data", {})}
    return set_up(configured(folder, data=data, **sections))


def batches_of(setup: Setup, step: int) -> tuple[list[Batch], list[Batch]]:
    found = setup.updates[step]
    return [b for b in found if not is_replayed(b)], [b for b in found if is_replayed(b)]


def test_the_tasks_rows_stay_and_general_ones_come_beside_them(tmp_path: Path) -> None:
    """36 training rows in updates of 8 (the last of 4) at a ratio of 1/3: b/2 general rows, so 4, 4, 4, 4 and 2 in an
    epoch, 18 of 54. The task's micro-batches are those of a run without replay."""
    alone = set_up(configured(tmp_path / "alone")) if (tmp_path / "alone").mkdir() is None else None
    beside = made(tmp_path, {"ratio": 1 / 3})
    assert alone is not None and len(beside.prepared.train) == 36
    counts = []
    for step in range(5):
        task, replayed = batches_of(beside, step)
        for one, other in zip(task, alone.updates[step], strict=True):
            assert torch.equal(one["input_ids"], other["input_ids"]) and torch.equal(one["labels"], other["labels"])
        counts.append(sum(len(b["row_ids"]) for b in replayed))
    assert counts == [4, 4, 4, 4, 2]
    text = beside.loaded.tokenizer.decode(batches_of(beside, 0)[1][0]["input_ids"][0])
    assert "the cat sat on the mat" in text


def test_tokens_are_exact_over_an_epoch(tmp_path: Path) -> None:
    """A quarter of the tokens: T of the task ask for T / 3 general ones, and at the end of the epoch there are exactly
    so many, rounded; the last row is cut for it, and its batch holds the tokens that it begins with."""
    setup = made(tmp_path, {"ratio": 0.25, "unit": "tokens"}, train={"max_steps": 5})
    task = replayed = 0
    for step in range(5):
        task += sum(b["input_ids"].numel() for b in batches_of(setup, step)[0])
        replayed += sum(b["input_ids"].numel() for b in batches_of(setup, step)[1])
    assert replayed == int(np.floor(task / 3 + 0.5))
    assert isinstance(setup.updates, MixedUpdates) and setup.prepared.replay is not None
    mix, table = setup.updates.mix, setup.prepared.replay.table
    assert mix.lengths[-1] < table.lengths[mix.rows[-1]]
    last = batches_of(setup, 4)[1][-1]
    start = last["input_ids"][last["segment_ids"] == last["segment_ids"].max()].tolist()
    assert any(table.row(row)[0][: len(start)].tolist() == start for row in last["row_ids"])


def test_the_loss_is_the_tasks_and_the_share_of_the_other(tmp_path: Path) -> None:
    """L = L_task + w (b_g / b_t) L_general, each a mean over its own labels: in fp64, row by row."""
    setup = made(tmp_path, {"ratio": 1 / 3, "weight": 0.5}, adapter={"method": "lora", "rank": 4, "init": "pissa"})
    job = make_job(setup, Scorer(setup, []).ready(), RunFolder(tmp_path / "nowhere"))
    setup.loaded.model.eval()
    parts: dict[str, float] = {}
    batches = job.updates[0]
    counts = count_units(job.terms, batches)
    assert counts["sft"] == sum(int((b["labels"] != -100).sum()) for b in batches if not is_replayed(b))
    loss = sum(backward(job, batch, counts, parts) for batch in batches)
    assert loss == pytest.approx(parts["sft"] + parts["replay"], rel=1e-6)
    model = setup.loaded.model
    for name, factor in (("sft", 1.0), ("replay", 0.5 * 0.5)):
        total = labels = 0.0
        for batch in batches:
            if is_replayed(batch) != (name == "replay"):
                continue
            for number in range(len(batch["segment_lengths"])):  # each row alone, through the model's own forward
                own = batch["segment_ids"] == number
                ids, wanted = batch["input_ids"][own], batch["labels"][own]
                with torch.no_grad():
                    logits = model(input_ids=ids[None]).logits[0].double()
                total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
                labels += int((wanted != -100).sum())
        assert parts[name] == pytest.approx(factor * total / labels, rel=1e-5)


def test_a_run_resumes_with_the_same_rows(tmp_path: Path) -> None:
    """Stopped after three of six updates and resumed: weights equal in every bit, both losses in the log, and the
    held-out rows are those of the task alone."""
    replay = {"ratio": {"start": 0.5, "end": 0.1}, "path": general(tmp_path)}
    results = []
    for name in ("whole", "halted"):
        (tmp_path / name).mkdir()
        config = configured(tmp_path / name, data={"replay": replay})

        def stop(event: Event, name: str = name) -> Stop | None:
            halt = name == "halted" and isinstance(event, Stepped) and event.step == 3
            return Stop("interrupted") if halt else None

        result = start_run(config, callbacks=[stop])
        results.append(result if name == "whole" else resume_run(result.folder))
    one, other = (CheckpointStore(r.folder / "checkpoints").load(6).tensors["trainable"] for r in results)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    lines = [json.loads(line) for line in (results[1].folder / "metrics.jsonl").read_text().splitlines()]
    apart = [line for line in lines if line["kind"] == "train"]
    assert all("loss.sft" in line for line in apart)
    assert ["loss.replay" in line for line in apart] == [True] * 5 + [False]  # at last not every update has a row
    assert json.loads((results[1].folder / "evaluation.json").read_text())["rows"] == 12
    assert json.loads((results[1].folder / "data.json").read_text())["replay"]["parts"][0]["rows"] == 5
    with pytest.raises(UserError, match="complete"):
        resume_run(results[1].folder)


def test_changed_general_rows_are_refused_on_resuming(tmp_path: Path) -> None:
    config = configured(tmp_path, data={"replay": {"path": general(tmp_path), "ratio": 0.2}})
    stop = lambda e: Stop("interrupted") if isinstance(e, Stepped) else None  # noqa: E731
    halted = start_run(config, callbacks=[stop])
    write_rows(tmp_path / "general.jsonl", TEXTS[:3])
    with pytest.raises(UserError, match="other rows"):
        resume_run(halted.folder)


def test_held_out_rows_are_not_replayed(tmp_path: Path) -> None:
    """All 60 rows of the task as general data: the 24 that are held out are left out, and that is said."""
    config = configured(tmp_path, data={"replay": {"path": str(tmp_path / "rows.jsonl"), "ratio": 0.5}})
    prepared = read_data(config)
    assert prepared.replay is not None
    assert [len(part.rows) for part in prepared.replay.parts] == [36]
    assert any("24 rows of `path` are held out" in finding.what for finding in prepared.findings)


def test_rows_of_earlier_runs_are_kept_by_class(tmp_path: Path) -> None:
    """A buffer of 9 rows of an earlier run, balanced: three of each of its three answers."""
    (tmp_path / "first").mkdir()
    first = start_run(configured(tmp_path / "first", train={"max_steps": 1}))
    buffer = {"rows": 9, "choose": "balanced"}
    config = configured(tmp_path, data={"replay": {"runs": [str(first.folder)], "earlier": buffer, "ratio": 0.3}})
    prepared = read_data(config)
    assert prepared.replay is not None
    table = prepared.replay.table
    answers = [prepared.renderer.tokenizer.decode(table.row(i)[0][table.row(i)[1]]).strip() for i in range(len(table))]
    assert all(sum(label in answer for answer in answers) == 3 for label in LABELS)
    trained = set(read_data(configured(tmp_path / "first")).train.ids)
    assert {name.rsplit("/", 1)[-1] for name in table.ids} <= {name.rsplit("/", 1)[-1] for name in trained}


def test_the_models_own_answers_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written before the training, in the cache, equal for equal settings; inspect shows them."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    replay = {"source": "self", "ratio": 0.2, "own": {"rows": 4, "max_new_tokens": 8, "temperature": 1.5}}
    config = configured(tmp_path, data={"replay": replay})
    prepared = read_data(config)
    (file,) = (tmp_path / "cache" / "own-answers").iterdir()
    written = file.read_bytes()
    file.unlink()
    read_data(config)
    assert file.read_bytes() == written  # the seed decides
    changed = file.stat().st_mtime_ns
    read_data(config)
    assert file.stat().st_mtime_ns == changed
    console = Console(width=160, record=True, file=(tmp_path / "out").open("w"))
    console.print(view(inspect_rows(prepared, prepared.renderer.tokenizer), colour=False))
    assert "Replayed rows: 20.0% of the rows" in console.export_text()


def pieces(text: str, size: int = 6) -> set[tuple[str, ...]]:
    """Stretches of words of a text."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def test_the_texts_of_burnish_are_many_and_distinct() -> None:
    """About a hundred passages in several languages; none is there twice, and none is a fragment."""
    from burnish.data.general import TEXTS
    from burnish.train.own_answers import PROMPTS

    passages = TEXTS.read_text(encoding="utf-8").strip().split("\n\n")
    assert len(passages) == len(set(passages)) > 100 and min(map(len, passages)) > 70
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()
    assert len(set(prompts)) >= 64
    measured = TEXTS.parents[1] / "evaluate" / "retention" / "general.jsonl"
    for line in measured.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)  # what is trained on measures nothing any more
        own = pieces(row.get("text") or row["question"])
        assert not any(own & pieces(text) for text in [*passages, *prompts]), row


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": "bert", "task": "classification", "adapter": {"method": "full"}}, "has no head of its own"),
        ({"model": "t5"}, "an encoder-decoder learns from a prompt"),
        ({"data": {"replay": {"ratio": 1.5}}}, "ratio"),
        ({"data": {"replay": {"own": {"rows": 3}}}}, "source: self"),
        ({"data": {"replay": {"earlier": {"rows": 3}}}}, "data.replay.runs"),
        ({"data": {"replay": {"ratio": 0.001}}}, "no general row is replayed"),
        ({"data": {"replay": {"runs": "nowhere"}}}, "no such run"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    given = {"data": {"replay": {"ratio": 0.2}}, **sections}
    with pytest.raises(UserError, match=message):
        set_up(configured(tmp_path, **given))


def labelled(folder: Path, rows: int = 60, **sections: Any) -> Any:
    """A classification with a head on tiny BERT."""
    folder.mkdir(parents=True, exist_ok=True)
    config = configured(folder, rows=rows, model="bert", task={"kind": "classification", "dropout": 0.0}, **sections)
    texts = [
        {"text": row["prompt"], "label": row["completion"].strip(), "task": "mood"} for row in sentiment_rows(rows)
    ]
    write_rows(folder / "rows.jsonl", texts)
    return config


def test_a_head_replays_labelled_rows_of_an_earlier_run(tmp_path: Path) -> None:
    """Nine rows of an earlier run, three of each class, in updates of 8 at a ratio of 1/3, so 4 beside 8: the loss is
    the mean cross-entropy of the task's rows and half of that of the others, in fp64 from the logits of each row."""
    first = start_run(labelled(tmp_path / "first", train={"max_steps": 1}))
    replay = {"runs": str(first.folder), "ratio": 1 / 3, "earlier": {"rows": 9, "choose": "balanced"}}
    config = labelled(tmp_path / "second", 40, data={"replay": replay, "split": {"validation": 6, "test": 6}})
    setup = set_up(config)
    rows = setup.prepared.replay
    assert rows is not None and sorted(rows.table.labels.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    job = make_job(setup, Scorer(setup, []).ready(), RunFolder(tmp_path / "nowhere"))
    setup.loaded.model.eval()
    parts: dict[str, float] = {}
    batches = job.updates[0]
    counts = count_units(job.terms, batches)
    assert counts == {"classification": 8.0, "replay": 4.0}
    loss = sum(backward(job, batch, counts, parts) for batch in batches)
    assert loss == pytest.approx(parts["classification"] + parts["replay"], rel=1e-6)
    for name, factor, size in (("classification", 1.0, 8), ("replay", 0.5, 4)):
        own = [batch for batch in batches if is_replayed(batch) == (name == "replay")]
        with torch.no_grad():
            losses = [
                torch.nn.functional.cross_entropy(
                    setup.context().class_logits(b).double(), b["labels"], reduction="sum"
                )
                for b in own
            ]
        assert parts[name] == pytest.approx(factor * float(sum(losses)) / size, rel=1e-5)
    result = start_run(config)
    assert json.loads((result.folder / "data.json").read_text())["replay"]["parts"][0]["name"] == "run run"


def test_heads_of_tasks_replay_rows_of_their_own_tasks(tmp_path: Path) -> None:
    """Two tasks with a head each; the earlier run had one of them alone, and its rows get the classes of this one."""
    source = lambda folder, name: {"path": str(folder / "rows.jsonl"), "task": name}  # noqa: E731
    first = labelled(tmp_path / "first", data={"train": [source(tmp_path / "first", "mood")]}, train={"max_steps": 1})
    done = start_run(first)
    (tmp_path / "other").mkdir()
    texts = [{"text": f"the {a} sat {i}", "label": a} for i in range(30) for a in ("cat", "dog")]
    write_rows(tmp_path / "other" / "rows.jsonl", texts)
    train = [source(tmp_path / "other", "animal"), source(tmp_path / "second", "mood")]
    data = {"train": train, "replay": {"runs": str(done.folder), "ratio": 0.4}}
    config = labelled(tmp_path / "second", data=data)
    prepared = read_data(config)
    assert prepared.replay is not None
    table = prepared.replay.table
    assert set(table.tasks_of(range(len(table)))) == {"mood"} and table.task_names == ("animal", "mood")
    assert set(table.labels.tolist()) == {2, 3, 4}  # animal/cat, animal/dog, then the moods
    setup = set_up(config)
    (batch,) = [b for b in setup.updates[0] if is_replayed(b)]
    assert set(batch["tasks"]) == {"mood"}


def test_labelled_rows_that_a_head_cannot_learn_are_refused(tmp_path: Path) -> None:
    """A run that wrote text, and classes that this job does not know."""
    (tmp_path / "text").mkdir()
    wrote = start_run(configured(tmp_path / "text", train={"max_steps": 1}))
    with pytest.raises(UserError, match="nothing that this one could learn"):
        read_data(labelled(tmp_path / "a", data={"replay": {"runs": str(wrote.folder)}}))
    odd = write_rows(tmp_path / "odd.jsonl", [{"text": "odd", "label": "furious"}] * 3)
    with pytest.raises(UserError, match="furious"):
        read_data(labelled(tmp_path / "b", data={"replay": {"path": str(odd)}}))


def test_a_replayed_row_that_stops_a_run_is_kept_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights of replayed rows are NaN: the update is refused, and its batches hold the rows of both kinds."""
    collate = mixed.collate_replayed

    def faulty(*args: Any, **settings: Any) -> Batch:
        batch = collate(*args, **settings)
        batch["weights"] = batch["weights"] * float("nan")
        return batch

    monkeypatch.setattr(mixed, "collate_replayed", faulty)
    config = configured(tmp_path, data={"replay": {"path": general(tmp_path), "ratio": 1 / 3}})
    with pytest.raises(TrainingStopped, match="the loss of update 1 is nan"):
        start_run(config)
    found = replay(config.folder)
    assert [row.get("source") for row in found.rows] == [None] * 8 + ["replay"] * 4
    assert all(row["loss"] is not None and row["tokens"] for row in found.rows)
    assert call(["replay-batch", str(config.folder)]) == 0
    assert "replayed " in capsys.readouterr().out
