"""Scores of answers against log-probabilities from the model's own logits."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from burnish.core.errors import UserError
from burnish.data.batches import Layout
from burnish.data.config import RenderConfig
from burnish.data.example import Example
from burnish.data.render import Renderer
from burnish.data.table import TokenTable
from burnish.evaluate.choices import one_pass_is_enough, questions, score_rows, true_choices, with_target, work
from burnish.evaluate.config import EvaluateConfig
from burnish.evaluate.loss import View, row_losses
from burnish.evaluate.run import Split, compare, evaluate, learnt_nothing, predictions
from burnish.models.config import ModelConfig
from burnish.models.load import load
from tests.support.recipes import LABELS, save_tiny

TEXTS = ("a cat", "what a wonderful day this is!", "one two three", "terrible news", "dog", "nine ten eleven twelve")
ONE_TOKEN = ("a", "b", "c")  # letters behind a blank: `Ġ` + letter are single bytes to this tokenizer


def examples(choices: tuple[str, ...], before: str = " ") -> list[Example]:
    return [
        Example(f"rows:{i}", prompt=f"Classify: {t}\nAnswer:", completion=before + choices[i % len(choices)])
        for i, t in enumerate(TEXTS)
    ]


def scored(
    tmp_path: Path, choices: tuple[str, ...], *, model: str = "llama", layout: Layout = "packed", before: str = " "
) -> Any:
    loaded = load(ModelConfig(path=str(save_tiny(tmp_path / "m", model))), torch.float32)
    renderer = Renderer(loaded.tokenizer, RenderConfig(), loaded.kind)
    rows = examples(choices, before)
    rendered = renderer.render_all(rows)
    table = TokenTable.build([e.id for e in rows], rendered)
    start = 0 if loaded.kind == "seq2seq" else None
    view = View(loaded, layout, 64, nullcontext, start)
    return view, table, rows, questions(rows, choices, renderer), renderer


def by_hand(view: View, prompt: list[int], answer: list[int]) -> float:
    """Sum of log p(token | everything before) from the logits of the whole sequence, in float64."""
    model, ids = view.loaded.model, torch.tensor([prompt + answer])
    with torch.no_grad():
        if view.loaded.kind == "seq2seq":
            decoder = torch.tensor([[0, *answer[:-1]]])
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder).logits[0]
        else:
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    logs = logits.double().log_softmax(-1)
    return float(sum(logs[i, token] for i, token in enumerate(answer)))


@pytest.mark.parametrize("layout", ["packed", "bucketed", "padded"])
@pytest.mark.parametrize(("choices", "before"), [(ONE_TOKEN, ""), (LABELS, " "), (("yes", "yes indeed"), " ")])
def test_scores_are_the_models_log_probabilities(
    tmp_path: Path, layout: Layout, choices: tuple[str, ...], before: str
) -> None:
    """Answers of one token, of several, and one that begins another, each against the logits of its own row."""
    view, table, _, asked, _ = scored(tmp_path, choices, layout=layout, before=before)
    losses, scores = score_rows(view, table, asked)
    for i, question in enumerate(asked):
        for k, answer in enumerate(question.answers):
            assert scores[i, k] == pytest.approx(by_hand(view, question.prompt, answer), abs=1e-4)
    alone = row_losses(view, table)
    np.testing.assert_allclose(losses.totals, alone.totals, atol=1e-5)
    np.testing.assert_array_equal(losses.counts, alone.counts)


def test_one_pass_serves_answers_of_one_token(tmp_path: Path) -> None:
    """Six rows are six units of work; with answers of several tokens they are six more."""
    view, table, _, asked, _ = scored(tmp_path, ONE_TOKEN, before="")
    assert one_pass_is_enough(view, table, asked) and work(view, table, asked) == 6
    heard: list[int] = []
    score_rows(view, table, asked, heard.append)
    assert heard[-1] == 6 and heard == sorted(heard)
    view, table, _, asked, _ = scored(tmp_path, LABELS)
    assert work(view, table, asked) == 12


def test_encoder_decoder(tmp_path: Path) -> None:
    view, table, _, asked, _ = scored(tmp_path, LABELS, model="t5", layout="bucketed")
    _, scores = score_rows(view, table, asked)
    for i, question in enumerate(asked[:3]):
        for k, answer in enumerate(question.answers):
            assert scores[i, k] == pytest.approx(by_hand(view, question.prompt, answer), abs=1e-4)


def test_what_answers_share_is_not_scored(tmp_path: Path) -> None:
    """`yes` and `yes indeed` part behind `yes`: there, one goes on and the other ends."""
    _, _, _, asked, _ = scored(tmp_path, ("yes", "yes indeed"))
    assert all(len(q.answers[0]) >= 1 and len(q.answers[1]) >= 1 for q in asked)
    assert asked[0].answers[0][0] != asked[0].answers[1][0]


def test_white_space_before_the_target_is_kept() -> None:
    example = Example("f:1", prompt="x", completion="  positive")
    assert with_target(example, "negative").completion == "  negative"
    chat = Example("f:1", messages=({"role": "user", "content": "x"}, {"role": "assistant", "content": "positive"}))
    changed = with_target(chat, "negative").messages
    assert changed is not None and changed[1]["content"] == "negative" and changed[0]["content"] == "x"


def test_a_target_that_is_no_choice_is_refused() -> None:
    rows = [*examples(LABELS), Example("rows:9", prompt="x", completion=" positiv")]
    with pytest.raises(UserError, match="1 rows have a target that is none") as caught:
        true_choices(rows, LABELS)
    assert "evaluate.choices" in caught.value.fix and caught.value.where == "rows:9"


def test_evaluation_of_a_split(tmp_path: Path) -> None:
    """Predictions are the highest score; comparing a model with itself gives difference 0 and p = 1, and is noticed."""
    view, table, rows, _, renderer = scored(tmp_path, LABELS)
    config = EvaluateConfig(choices=LABELS)
    split = Split.make("test", table, rows, config, renderer)
    result = evaluate(view, split, config, renderer)
    lines = predictions(split, model=result)
    right = 0
    for line, row in zip(lines, result.scores, strict=True):
        assert line["model"]["predicted"] == LABELS[int(row.argmax())]
        assert line["model"]["probability"] == pytest.approx(np.exp(row.max()) / np.exp(row).sum())
        right += line["model"]["predicted"] == line["target"].strip()
    assert result.values()["accuracy"] == pytest.approx(right / 6)
    assert learnt_nothing(result, result)
    same = compare(result, result)
    assert same["loss"]["difference"] == 0 and same["accuracy"]["p_value"] == 1.0
