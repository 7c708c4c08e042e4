"""The fifteen commonest silent faults of fine-tuning, each planted in a real run and seen caught.

A planted fault is one in the code, in the model or in the data that would otherwise end with exit code 0 and a normal
curve. Each test says what it breaks and what Burnish answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM

import burnish
from burnish.core.config import build
from burnish.core.errors import BurnishError, TrainingStopped, UserError
from burnish.core.files import read_lines
from burnish.data.render import Rendered, Renderer
from burnish.models import attention, forward
from burnish.models.forward import packing_mode
from burnish.train import loop, run, setup
from burnish.train.config import RunConfig
from burnish.train.merging import merge_run
from burnish.train.run import resume_run, start_run
from burnish.train.score import Scorer
from burnish.train.setup import Setup
from burnish.train.state import TrainState
from burnish.train.verify import read_back
from tests.support.recipes import configured, recipe, sentiment_rows, write_rows
from tests.support.tiny import START, tiny, tiny_tokenizer


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl") if line["kind"] == "train"]


def planted_rendering(monkeypatch: pytest.MonkeyPatch, change: Callable[[Rendered], Rendered]) -> None:
    plain = Renderer.render_all

    def changed(self: Renderer, examples: Any) -> list[Any]:
        return [change(row) if isinstance(row, Rendered) else row for row in plain(self, examples)]

    monkeypatch.setattr(Renderer, "render_all", changed)


def test_1_prompts_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask covers every token: the rows, decoded again, show their prompts among the trained text."""
    planted_rendering(monkeypatch, lambda row: replace(row, trained=[False] + [True] * (len(row.trained) - 1)))
    with pytest.raises(UserError, match=r"render\.prompt-trained"):
        start_run(configured(tmp_path))
    assert not (tmp_path / "runs").exists()


def test_2_end_token_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last label is taken away, as where EOS equals the padding token and padding is masked by id."""
    planted_rendering(monkeypatch, lambda row: replace(row, trained=[*row.trained[:-1], False]))
    with pytest.raises(UserError, match=r"render\.end-not-trained"):
        start_run(configured(tmp_path))


def test_2_end_token_that_is_also_padding_is_trained(tmp_path: Path) -> None:
    """The usual cause of it: a tokenizer that pads with its EOS. Each row's end is a label all the same.

    48 rows train, in 6 updates of 8: as many ends of text as rows are among the labels.
    """
    config = configured(tmp_path, rows=72)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "model")
    job = run.make_job(made := setup.set_up(config), Scorer(made, []), run.RunFolder(tmp_path / "unused"))
    labels = [batch["labels"] for step in range(6) for batch in job.updates[step]]
    assert sum(int((part == tokenizer.eos_token_id).sum()) for part in labels) == 48


def test_3_doubled_bos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Template and tokenizer both begin the row with BOS."""
    config = configured(tmp_path)
    tokenizer = tiny_tokenizer(bos_token=START)
    tokenizer.save_pretrained(tmp_path / "model")
    bos = tokenizer.bos_token_id

    def twice(row: Rendered) -> Rendered:
        extra = 2 if row.input_ids[0] != bos else 1
        return replace(row, input_ids=[bos] * extra + row.input_ids, trained=[False] * extra + row.trained)

    planted_rendering(monkeypatch, twice)
    with pytest.raises(UserError, match=r"render\.double-bos"):
        start_run(config)


def test_4_truncated_targets(tmp_path: Path) -> None:
    """Answers longer than the rows may be: the run stops, and says how many target tokens it would have lost."""
    rows = [{**row, "completion": " long" * 60 + f" {i}"} for i, row in enumerate(sentiment_rows(60))]
    config = configured(tmp_path, data={"render": {"max_length": 32}})
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=r"target tokens with them.*render\.truncated"):
        start_run(config)


def test_5_dead_lora_under_gradient_checkpointing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reentrant checkpointing cuts the graph where the input of a layer needs no gradient: with LoRA, everywhere."""

    def reentrant(model: Any, **settings: Any) -> None:
        for layer in model.model.layers:
            layer.forward = partial(recomputed, layer.forward)

    def recomputed(plain: Any, hidden: Tensor, **kwargs: Any) -> Any:
        return checkpoint(partial(plain, **kwargs), hidden, use_reentrant=True)

    monkeypatch.setattr(setup, "checkpoint_activations", reentrant)
    with pytest.raises(TrainingStopped, match="depends on no tensor that is trained"):
        start_run(configured(tmp_path, train={"gradient_checkpointing": True}))


def test_6_loss_averaged_over_unequal_micro_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of micro-batch means weighs a token by the company it is in; the sums that the loop keeps do not.

    Rows have targets of 1 to 9 tokens, so 8 rows cut in 1 and in 4 give the same loss only if it is one sum over one
    count. With the fault planted the two runs differ: the test of invariance would see it.
    """
    rows = [{**row, "completion": " a" * (1 + i % 9)} for i, row in enumerate(sentiment_rows(60))]

    def first_loss(name: str, accumulation: int) -> float:
        (tmp_path / name).mkdir()
        train = {"max_steps": 2, "gradient_accumulation_steps": accumulation}
        config = configured(tmp_path / name, train=train, evaluate={"every_steps": 2})
        write_rows(tmp_path / name / "rows.jsonl", rows)
        return losses(start_run(config).folder)[0]

    assert first_loss("whole", 1) == pytest.approx(first_loss("cut", 4), rel=1e-5)
    plain = loop.backward

    def of_means(job: Any, batch: Any, counts: Any, parts: Any = None) -> float:
        return plain(job, batch, {term.name: 4 * float(term.count(batch)) for term in job.terms}, parts)

    monkeypatch.setattr(loop, "backward", of_means)
    assert first_loss("means", 4) != pytest.approx(losses(tmp_path / "whole/runs/run")[0], rel=1e-4)


def test_7_packed_neighbours_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that ignores where rows begin: a probe of the model sees it, and another way of packing is taken.

    The losses are those of a run without the fault. Where the other way is broken too, rows are not packed.
    """
    (tmp_path / "sound").mkdir()
    sound = losses(start_run(configured(tmp_path / "sound")).folder)
    plain = attention.packed_attention

    def blind(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], **kwargs: Any) -> Tensor:
        return plain(query, key, value, (sum(lengths),), **kwargs)

    monkeypatch.setattr(attention, "packed_attention", blind)
    assert packing_mode(tiny("llama")) == "mask"
    assert losses(start_run(configured(tmp_path)).folder) == pytest.approx(sound, rel=1e-5)
    whole = forward._run
    monkeypatch.setattr(forward, "_run", lambda model, batch, *_, **__: whole(model, just_ids(batch), None))
    assert packing_mode(tiny("llama")) is None
    (tmp_path / "demanded").mkdir()
    with pytest.raises(UserError, match="cannot be packed"):
        start_run(configured(tmp_path / "demanded", batches={"layout": "packed"}))


def just_ids(batch: Any) -> Any:
    return {"input_ids": batch["input_ids"]}


def test_8_an_unloaded_adapter_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tuned model is scored without its adapter: the report says in its first line that nothing was learnt."""
    plain = Scorer.tuned

    def bare(self: Scorer) -> Any:
        with self.setup.attached.disabled():
            return plain(self)

    monkeypatch.setattr(Scorer, "tuned", bare)
    page = burnish.run(configured(tmp_path)).report.read_text()
    assert page.index("nothing was learnt") < page.index("<table")


@pytest.mark.fresh_process
@pytest.mark.parametrize(("method", "lost"), [("full", "lm_head.weight"), ("lora", "q_proj.lora_B")])
def test_9_a_head_lost_at_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, lost: str) -> None:
    """A tensor is missing in what is handed over: a fresh process that reads it back says which, and the run stops."""
    values = recipe(tmp_path, adapter=method if method == "full" else {"method": "lora", "rank": 4})
    untie(tmp_path / "model")
    plain = run.hand_over

    def forgetful(made: Setup, folder: Any) -> Path:
        final = plain(made, folder)
        (weights,) = final.glob("*.safetensors")
        kept = {name: tensor for name, tensor in load_file(weights).items() if lost not in name}
        assert len(kept) < len(load_file(weights))
        save_file(kept, weights, metadata={"format": "pt"})
        return final

    monkeypatch.setattr(run, "hand_over", forgetful)
    with pytest.raises(BurnishError, match=lost.partition(".")[0]):
        start_run(build(RunConfig, values))
    assert not (tmp_path / "runs/run/evaluation.json").exists()


def untie(folder: Path) -> None:
    """Replace the model of a recipe by one whose head is a matrix of its own."""
    config = tiny("llama").config
    config.tie_word_embeddings = False
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_9_the_real_read_back(tmp_path: Path, method: str, tied: bool) -> None:
    """Both kinds of what is handed over pass where nothing is lost, with tied and untied heads; in a new process."""
    config = configured(tmp_path, adapter=method)
    if not tied:
        untie(tmp_path / "model")
    checks = read_back(start_run(config).folder)
    assert len(checks) >= 4 and all(check.passed for check in checks)


def test_10_tied_weights_overwritten_at_merge(tmp_path: Path) -> None:
    """The head's adapter cannot be merged where the head is the table of embeddings: it would change every input."""
    folder = start_run(configured(tmp_path, adapter={"method": "lora", "targets": ["lm_head", "q_proj"]})).folder
    with pytest.raises(UserError, match="shares its weight"):
        merge_run(folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_11_an_epoch_replayed_at_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of update 3 whose state counts from 0 again would see its rows twice."""
    config = configured(tmp_path, checkpoint={"every_steps": 3})
    monkeypatch.setattr(run, "hand_over", lambda *_: (_ for _ in ()).throw(UserError("cut off here")))
    with pytest.raises(UserError, match="cut off here"):
        start_run(config)
    monkeypatch.setattr(TrainState, "from_json", classmethod(lambda cls, values: cls()))
    with pytest.raises(UserError, match="replayed"):
        resume_run(config.folder)


def test_12_a_seed_set_after_initialisation(tmp_path: Path) -> None:
    """Whatever drew from the global generator before: the recipe's seed alone gives initial weights and order."""
    finals = []
    for before in (1, 2):
        (tmp_path / str(before)).mkdir()
        torch.manual_seed(before)
        torch.rand(before)
        config = configured(tmp_path / str(before), adapter={"method": "lora", "rank": 4, "dropout": 0.2})
        finals.append((start_run(config).folder / "final/adapter_model.safetensors").read_bytes())
    assert finals[0] == finals[1]


def test_13_evaluation_rows_in_training(tmp_path: Path) -> None:
    """Five test rows are in the training file too: dropped there and said, or refused if the recipe wants that."""
    config = configured(tmp_path, data={"test": str(tmp_path / "test.jsonl"), "split": {"validation": 12}})
    write_rows(tmp_path / "test.jsonl", sentiment_rows(60)[:5])
    folder = start_run(config).folder
    (leak,) = [f for f in read_lines(folder / "findings.jsonl") if f["code"] == "data.leak" and "train" in f["what"]]
    assert leak["evidence"]["rows"] + _validation_leaks(folder) == 5
    refused = configured(
        tmp_path,
        name="refused",
        data={"test": str(tmp_path / "test.jsonl"), "split": {"validation": 12}, "on_leak": "stop"},
    )
    with pytest.raises(UserError, match=r"data\.leak"):
        start_run(refused)


def _validation_leaks(folder: Path) -> int:
    leaks = [f for f in read_lines(folder / "findings.jsonl") if f["code"] == "data.leak" and "validation" in f["what"]]
    return sum(leak["evidence"]["rows"] for leak in leaks if leak["evidence"]["from"] == "validation")


def test_14_a_learning_rate_that_is_not_the_configured_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something scales the rate behind the schedule, which still logs the right one: the first update tells."""

    class Slow(torch.optim.AdamW):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            for group in self.param_groups:
                group["lr"] *= 0.5
            return super().step(*args, **kwargs)

    plain = Setup.optimizer

    def planted(self: Setup) -> torch.optim.Optimizer:
        made = plain(self)
        return Slow(made.param_groups, lr=made.defaults["lr"])

    monkeypatch.setattr(Setup, "optimizer", planted)
    with pytest.raises(TrainingStopped, match=r"off by 0\.5\d* learning rates"):
        start_run(configured(tmp_path))


def test_15_a_checkpoint_that_lacks_a_shard(tmp_path: Path) -> None:
    """Of a model in several files one is gone: refused before anything is trained, never filled with noise."""
    config = configured(tmp_path)
    tiny("llama").save_pretrained(tmp_path / "model", max_shard_size="40KB")
    (tmp_path / "model/model.safetensors").unlink()
    shards = sorted((tmp_path / "model").glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(UserError, match=shards[1].name):
        start_run(config)
