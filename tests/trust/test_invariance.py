"""What a run learns does not depend on how its rows are cut, packed, padded or recomputed.

For every method in the registry, so that a new one is held to it by being registered. The reference is the update whose
rows go through the model one by one: nothing is padded, nothing shares a batch. Gradients are compared and not weights,
because AdamW's first steps have the size of the learning rate however small a gradient is.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from burnish.adapters.registry import METHODS
from burnish.evaluate.run import Split, evaluate
from burnish.train.folder import RunFolder
from burnish.train.loop import backward
from burnish.train.run import make_job
from burnish.train.score import Scorer
from burnish.train.setup import Setup, set_up
from tests.support.recipes import configured, sentiment_rows, write_rows
from tests.support.refusals import skip_refused

ROWS = 8
MODELS = ("llama", "gpt2", "t5")
VARIANTS: dict[str, dict[str, Any]] = {
    "8 x 1": {"train": {"gradient_accumulation_steps": 1}},
    "4 x 2": {"train": {"gradient_accumulation_steps": 2}},
    "2 x 4": {"train": {"gradient_accumulation_steps": 4}},
    "packed": {"batches": {"layout": "packed"}},
    "packed, 2 x 4": {"batches": {"layout": "packed"}, "train": {"gradient_accumulation_steps": 4}},
    "bucketed": {"batches": {"layout": "bucketed"}},
    "small token budget": {"batches": {"layout": "bucketed", "micro_batch_tokens": 90}},
    "small packs": {"batches": {"layout": "packed", "micro_batch_tokens": 90}},
    "gradient checkpointing": {"train": {"gradient_checkpointing": True}},
    "checkpointed packs": {"batches": {"layout": "packed"}, "train": {"gradient_checkpointing": True}},
    "selective checkpointing": {"train": {"gradient_checkpointing": "selective"}},
    "selective, packed": {"batches": {"layout": "packed"}, "train": {"gradient_checkpointing": "selective"}},
}
CLASSIFIERS = {"bert": "mean", "bert cls": "cls", "llama": "last", "gpt2": "last"}
TASKS: dict[str, Any] = {"text": "text"} | {
    pooling: {
        "kind": "classification",
        "pooling": pooling,
        "dropout": 0.0,
        "label_smoothing": 0.1,
        "class_weights": "balanced",
    }
    for pooling in ("mean", "cls", "last")
}


def texts() -> list[dict[str, Any]]:
    return [{**row, "completion": " a" * (1 + i % 9)} for i, row in enumerate(sentiment_rows(60))]


def classes() -> list[dict[str, Any]]:
    rows = sentiment_rows(60)
    return [
        {"text": r["prompt"][: 30 + 5 * (i % 7)] + f" {i}", "label": r["completion"].strip()}
        for i, r in enumerate(rows)
    ]


ROWS_OF = {"text": texts, "mean": classes, "cls": classes, "last": classes}
REFERENCE: dict[str, Any] = {"batches": {"layout": "padded"}, "train": {"gradient_accumulation_steps": ROWS}}


def made(model: str, method: str, sections: dict[str, Any], task: str = "text") -> Setup:
    """A run that is set up; targets have 1 to 9 tokens, so that means of micro-batch means would differ."""
    skip_refused(method, model)
    train = {"batch_size": ROWS, "max_steps": 2, **sections.get("train", {})}
    rows = ROWS_OF[task]()
    sections = {"task": TASKS[task], **sections}
    with TemporaryDirectory() as folder:
        config = configured(Path(folder), model=model, adapter=method, **{**sections, "train": train})
        write_rows(Path(folder) / "rows.jsonl", rows)
        setup = set_up(config)
    if not setup.attached.trains_base:
        shake(setup)
    return setup


@torch.no_grad()
def shake(setup: Setup) -> None:
    """Away from the start, where half of an adapter's gradients are zero."""
    generator = torch.Generator().manual_seed(1)
    for _, parameter in setup.trainable:
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def first_gradient(
    model: str, method: str, sections: dict[str, Any], task: str = "text"
) -> tuple[float, int, dict[str, torch.Tensor]]:
    """Loss, micro-batches and gradient of the first update, in the loop's own arithmetic."""
    setup = made(model, method, sections, task)
    job = make_job(setup, Scorer(setup, []), RunFolder(Path("unused")))
    setup.loaded.model.train()
    batches = job.updates[0]
    counts = {term.name: sum(float(term.count(batch)) for batch in batches) for term in job.terms}
    loss = sum(backward(job, batch, counts) for batch in batches)
    return loss, len(batches), {n: p.grad for n, p in job.trainable if p.grad is not None}


@cache
def reference(model: str, method: str, task: str = "text") -> tuple[float, dict[str, torch.Tensor]]:
    loss, count, gradient = first_gradient(model, method, REFERENCE, task)
    assert count == ROWS and gradient
    return loss, gradient


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_does_not_depend_on(variant: str, model: str, method: str) -> None:
    """Loss to 1e-5, and each tensor's gradient to 1e-5 of the largest number in it (fp32), or of 1."""
    sections = VARIANTS[variant]
    if model == "t5" and sections.get("batches", {}).get("layout") == "packed":
        pytest.skip("encoder-decoders are not packed, and a recipe that asks for it is refused")
    assert_the_same(variant, *first_gradient(model, method, sections), *reference(model, method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", CLASSIFIERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_classifications_gradient_does_not_depend_on(variant: str, model: str, method: str) -> None:
    """The same for encoders and decoders with a head, weighted classes and smoothing, in every pooling."""
    task = CLASSIFIERS[model]
    name = model.split()[0]
    assert_the_same(variant, *first_gradient(name, method, VARIANTS[variant], task), *reference(name, method, task))


def assert_the_same(
    variant: str,
    loss: float,
    count: int,
    found: dict[str, torch.Tensor],
    expected_loss: float,
    expected: dict[str, torch.Tensor],
) -> None:
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert count == {"2 x 4": 4, "packed, 2 x 4": 4, "4 x 2": 2, "8 x 1": 1}.get(variant, count)
    assert count > 1 or "small" not in variant
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(found[name] / scale, gradient / scale, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_an_evaluation_does_not_depend_on_its_batches(model: str, method: str) -> None:
    """One row at a time and all at once: each row's loss to 1e-5, and the same answers."""
    setup = made(model, method, {"evaluate": {"metrics": ["exact_match"]}})
    setup.loaded.model.eval()
    results = []
    for tokens in (1, 60, 100_000):
        config = setup.config.evaluate.model_copy(update={"batch_tokens": tokens})
        scorer = Scorer(replace(setup, config=setup.config.model_copy(update={"evaluate": config})), [])
        prepared = setup.prepared
        split = Split.make("test", prepared.test, prepared.examples["test"], config, prepared.renderer)
        results.append(evaluate(scorer.view, split, config, prepared.renderer))
    for other in results[1:]:
        assert other.losses.totals == pytest.approx(results[0].losses.totals, rel=1e-5)
        assert [a.token_ids for a in other.answers] == [a.token_ids for a in results[0].answers]


def test_the_order_of_rows_is_a_function_of_seed_and_step() -> None:
    """Nothing else draws: not the global generator, not a worker, not what was asked for before."""
    updates = made("llama", "lora", {}).updates
    forwards = [updates.rows(step).tolist() for step in range(12)]
    torch.manual_seed(99)
    again = made(
        "llama", "lora", {"batches": {"layout": "padded"}, "train": {"gradient_accumulation_steps": 2}}
    ).updates
    assert [again.rows(step).tolist() for step in reversed(range(12))] == forwards[::-1]
