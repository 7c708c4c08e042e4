"""What every contender counts and scores, on batches of a few tokens."""

from __future__ import annotations

import importlib.util
import json
import math
from types import ModuleType
from typing import Any

import pytest
import torch

from burnish.benchmarks.process import MARK, SCRIPTS


def script(name: str) -> ModuleType:
    """A script as a module; it is no part of the package, which runs it as a file."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


measure = script("measure")
ROWS = [{"ids": [5, 6, 7], "prompt_tokens": 1}, {"ids": [8, 9], "prompt_tokens": 1}]
SEEN = {"rows": 2, "tokens": 5, "trained_tokens": 3, "token_sum": 35, "label_sum": 22}
"""5 + 6 + 7 + 8 + 9 = 35; trained are 6, 7 and 9, which is 22."""


def test_padded_packed_and_shifted_batches_count_alike() -> None:
    """Padding counts as a place only: six places for five tokens. A pack is one row of the batch, and so is counted."""
    padded, packed, shifted = measure.Watch(), measure.Watch(), measure.Watch()
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    padded.count(torch.tensor([[5, 6, 7], [8, 9, 2]]), torch.tensor([[-100, 6, 7], [-100, 9, -100]]), mask)
    packed.count(torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[-100, 6, 7, -100, 9]]))
    shifted.count(torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[6, 7, -100, 9, -100]]))
    assert padded.counts == {**SEEN, "places": 6}
    assert packed.counts == shifted.counts == {**SEEN, "rows": 1, "places": 5}


def test_expected_counts_are_those_of_the_rows() -> None:
    """Two epochs over two rows in batches of two: two updates, and everything twice."""
    expected = script("prepare").expected(ROWS, {"epochs": 2, "batch_size": 2})
    assert expected == {key: value * (1 if key == "rows" else 2) for key, value in SEEN.items()} | {"updates": 2}
    classes = [{"ids": [1, 2], "class": 2}, {"ids": [3], "class": 0}, {"ids": [4], "class": 1}]
    found = script("prepare").expected(classes, {"epochs": 1, "batch_size": 2})
    assert (found["updates"], found["tokens"], found["trained_tokens"], found["label_sum"]) == (2, 4, 3, 3)


def test_a_model_is_watched_in_training_only(capsys: pytest.CaptureFixture[str]) -> None:
    """An evaluation counts nothing; of 4 x 2 frozen and 2 x 3 + 3 other parameters the 9 are trained."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.head = torch.nn.Embedding(4, 2), torch.nn.Linear(2, 3)
            self.frozen.requires_grad_(False)

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return self.head(self.frozen(input_ids))

    model, watch = Model(), measure.Watch(1)
    watch.see(model)
    batch = {"input_ids": torch.tensor([[1, 2, 3]]), "labels": torch.tensor([[-100, 2, 3]])}
    watch.begin()
    model(**batch)
    watch.end()
    model.eval()(**batch)
    watch.answer({"held_out_loss": 1.0}, {}, examples=1)
    told: list[dict[str, Any]] = [json.loads(line.removeprefix(MARK)) for line in capsys.readouterr().out.splitlines()]
    assert told[0] == {"progress": 1, "total": 1}
    answer = told[1]["answer"]
    assert (answer["tokens"], answer["trained_tokens"], answer["label_sum"]) == (3, 2, 5)
    assert answer["trained_parameters"] == 9 and answer["updates"] == 1


def test_held_out_loss_is_that_of_the_completions() -> None:
    """Logits 0 everywhere but ln 3 on token 1, of four: p(1) = 3/6, the others 1/6.

    The row [0, 1, 2] with a prompt of one: (-ln 1/2 - ln 1/6) / 2.
    """
    logits = torch.zeros(1, 3, 4)
    logits[..., 1] = math.log(3)
    scores = measure.held_out_loss(lambda ids: logits, [{"ids": [0, 1, 2], "prompt_tokens": 1}])
    assert scores["held_out_loss"] == pytest.approx((math.log(2) + math.log(6)) / 2, abs=1e-6)


def test_held_out_classes_give_loss_and_accuracy() -> None:
    """The same distribution; the classes 1 and 2: one of two is right, and the loss is the same mean."""
    logits = torch.tensor([[0.0, math.log(3), 0.0, 0.0]])
    scores = measure.held_out_classes(lambda ids: logits, [{"ids": [0], "class": 1}, {"ids": [0], "class": 2}])
    assert scores["held_out_accuracy"] == 0.5
    assert scores["held_out_loss"] == pytest.approx((math.log(2) + math.log(6)) / 2, abs=1e-6)
