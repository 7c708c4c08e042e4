"""What is left of what a model knew: its parts against `transformers`, PyTorch and numbers by hand."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from burnish.adapters.attach import attach
from burnish.adapters.prompt import PromptConfig
from burnish.core.errors import UserError
from burnish.data.batches import Layout
from burnish.evaluate.config import EvaluateConfig, RetentionConfig
from burnish.evaluate.loss import View, row_losses
from burnish.evaluate.retention import score as scoring
from burnish.evaluate.retention.change import describe, right
from burnish.evaluate.retention.layers import cosines, linear_cka
from burnish.evaluate.retention.rows import RetentionRows, make_rows
from burnish.evaluate.retention.score import Said, listen
from burnish.evaluate.retention.sequence import transfer
from burnish.evaluate.retention.sources import Item, Passage, RetentionSet, read_set
from burnish.evaluate.retention.stems import choice_losses, stems_of
from burnish.models.load import Loaded
from tests.support.tiny import tiny, tiny_tokenizer

KNOWN = RetentionSet(
    (
        Passage("cats", "the cat sat on the mat"),
        Passage("cats", "and looked at the dog this is"),
        Passage("numbers", "one two three four five six"),
    ),
    (
        Item("counting", "one two", (" three", " nine ten"), 0),
        Item("counting", "the cat sat on the", (" mat", " dog"), 1),
    ),
)


def view_of(name: str = "llama", layout: Layout = "packed", tokens: int = 1024, seed: int = 0) -> View:
    """A tiny model, ready to be scored."""
    kind = "seq2seq" if name == "t5" else "causal"
    loaded = Loaded(tiny(name, seed=seed), tiny_tokenizer(), kind, name, Path())  # type: ignore[arg-type]
    return View(loaded, layout, tokens, nullcontext, decoder_start_id=0 if name == "t5" else None)


def rows_of(view: View, known: RetentionSet = KNOWN) -> RetentionRows:
    """The retention set as the model's tokens."""
    return make_rows(known, view.loaded, 64)


@pytest.fixture
def all_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every token of the vocabulary is kept, so that KL is exact."""
    monkeypatch.setattr(scoring, "KEPT_TOKENS", 384)
    return None


@pytest.mark.parametrize(("name", "layout"), [("llama", "packed"), ("llama", "bucketed"), ("gpt2", "bucketed")])
def test_losses_are_those_of_transformers(name: str, layout: Layout) -> None:
    """`model(ids, labels=ids).loss` is the mean over all tokens but the first, text by text; fp32 sums."""
    view = view_of(name, layout)
    rows, model = rows_of(view), view.loaded.model
    said, places = listen(view, rows), rows.places
    for row in range(len(rows.texts)):
        ids = torch.tensor([rows.texts.row(row)[0].tolist()])
        with torch.no_grad():
            expected = float(model(ids, labels=ids).loss)
        assert said.losses[places[row] : places[row + 1]].mean() == pytest.approx(expected, abs=2e-5)


@pytest.mark.usefixtures("all_kept")
def test_kl_and_agreement_on_full_logits() -> None:
    """Against `kl_div` and `argmax` of the full logits of two models, text by text."""
    first, second = view_of(), view_of(seed=1)
    rows = rows_of(first)
    said = listen(second, rows, listen(first, rows))
    assert said.kl is not None and said.agrees is not None
    for row in range(len(rows.texts)):
        ids = torch.tensor([rows.texts.row(row)[0].tolist()])
        with torch.no_grad():
            p, q = (v.loaded.model(ids).logits[0, :-1].double().log_softmax(-1) for v in (first, second))
        expected = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
        part = slice(rows.places[row], rows.places[row + 1])
        assert np.allclose(said.kl[part], expected.numpy(), atol=1e-4)
        assert said.agrees[part].tolist() == (p.argmax(-1) == q.argmax(-1)).tolist()


def test_choices_by_hand() -> None:
    """The log-likelihood of each choice is the sum of its tokens' log-softmax; the larger one is the answer."""
    view = view_of()
    rows, model, tokenizer = rows_of(view), view.loaded.model, view.loaded.tokenizer
    said = listen(view, rows)
    place, picked = 0, []
    for item in KNOWN.items:
        texts = [tokenizer(item.question + choice)["input_ids"] for choice in item.choices]
        start = next(i for i in range(99) if len({t[i] for t in texts}) > 1)
        totals = []
        for ids in texts:
            with torch.no_grad():
                logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            totals.append(sum(float(logs[i - 1, ids[i]]) for i in range(start, len(ids))))
        assert said.choices[place : place + 2] == pytest.approx([-t for t in totals], abs=1e-4)
        picked.append(int(np.argmax(totals)))
        place += 2
    assert right(rows, said)[0].tolist() == picked


@pytest.mark.parametrize(("name", "layout"), [("llama", "packed"), ("gpt2", "bucketed"), ("t5", "bucketed")])
def test_choices_are_read_from_few_rows(name: str, layout: Layout) -> None:
    """As with a row for every choice, to rounding. ` mat` and ` dog` are tokens behind the same text: one row for
    both; ` three` and ` nine ten` part at once, and the row of ` nine` holds what ` three` needs. No row is the
    beginning of another, and every predicted token is read behind the very tokens that precede it."""
    view = view_of(name, layout)
    rows = rows_of(view, replace(KNOWN, items=(*KNOWN.items, Item("counting", "a", (" b c", " b d", " b"), 0))))
    assert rows.answers is not None
    expected = row_losses(view, rows.answers).totals
    assert choice_losses(view, rows.answers) == pytest.approx(expected, abs=1e-5)
    if name == "t5":
        return
    stems = stems_of(rows.answers)
    held = [stems.table.row(i)[0].tolist() for i in range(len(stems.table))]
    assert not any(a is not b and b[: len(a)] == a for a in held for b in held)
    for choice in range(len(rows.answers)):
        ids, trained = rows.answers.row(choice)
        own = stems.choices == choice
        assert stems.tokens[own].tolist() == ids[trained].tolist()
        for row, place, token in zip(stems.rows[own], stems.places[own], ids[trained], strict=True):
            at = int(place) + 1
            assert [*held[row][:at], token] == ids[: at + 1].tolist()
    assert stems.table.n_tokens < rows.answers.n_tokens and len(held) < len(rows.answers)


@pytest.mark.parametrize("layout", ["packed", "bucketed"])
@pytest.mark.parametrize("virtual", [0, 3])
def test_layer_means(layout: Layout, virtual: int) -> None:
    """The mean of `output_hidden_states` of each text alone, behind the first layer (a norm follows the last).

    With virtual tokens before every text, of the texts' own places.
    """
    view = view_of("llama", layout)
    rows, model = rows_of(view), view.loaded.model
    if virtual:
        attach(model, PromptConfig(num_virtual_tokens=virtual))
    said = listen(view, rows)
    assert sorted(said.vectors) == [0, 1]
    if virtual:  # alone in its batch no filling can be counted in
        alone = [listen(view, make_rows(RetentionSet((p,), ()), view.loaded, 64)).vectors[0][0] for p in KNOWN.passages]
        assert np.allclose(said.vectors[0], np.stack(alone), atol=1e-5)
        return
    for row in range(len(rows.texts)):
        ids = torch.tensor([rows.texts.row(row)[0].tolist()])
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states
        assert np.allclose(said.vectors[0][row], hidden[1][0].mean(0).numpy(), atol=1e-5)


def test_an_encoder_decoder_writes_the_second_half() -> None:
    """Its encoder reads the first half of a text and its decoder is scored on the second; `model(...).loss` agrees."""
    view = view_of("t5", "bucketed")
    rows, model = rows_of(view), view.loaded.model
    said = listen(view, rows)
    for row in range(len(rows.texts)):
        ids, target = (torch.tensor([one.tolist()]) for one in (rows.texts.row(row)[0], rows.texts.target(row)))
        with torch.no_grad():
            expected = float(model(input_ids=ids, labels=target).loss)
        assert said.losses[rows.places[row] : rows.places[row + 1]].mean() == pytest.approx(expected, abs=2e-5)
    assert sorted(said.vectors) == [0, 1, 2, 3]


def test_cka_by_hand() -> None:
    """X = (1, 0, -1), Y = (1, 1, -2): (X.Y)^2 / (X.X Y.Y) = 3^2 / (2 * 6) = 3/4. Rotated, scaled and moved: 1."""
    assert linear_cka([[1.0], [0.0], [-1.0]], [[1.0], [1.0], [-2.0]]) == pytest.approx(0.75, abs=1e-12)
    points = np.random.default_rng(0).normal(size=(7, 3))
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert linear_cka(points, 3 * points @ turn + 5) == pytest.approx(1.0, abs=1e-12)
    assert cosines([[1.0, 0.0], [3.0, 4.0]], [[1.0, 1.0], [6.0, 8.0]]) == pytest.approx([math.sqrt(0.5), 1.0])


def said(losses: list[float], choices: list[float]) -> Said:
    """What a model might have said of two texts of two tokens each and two questions of two choices."""
    return Said(np.asarray(losses), choices=np.asarray(choices))


def test_the_score_by_hand() -> None:
    """Domain a loses log 2 a token: r = 1/2. Domain b gains: r = 2, cut at 1. One of two answers is lost: r = 1/2.

    (1/2 + 1 + 1/2) / 3 = 2/3.
    """
    view = view_of()
    known = RetentionSet((Passage("a", "one two"), Passage("b", "the cat")), KNOWN.items)
    rows = rows_of(view, known)
    n = rows.places
    before = np.full(n[-1], 3.0)
    after = before + np.where(np.arange(n[-1]) < n[1], math.log(2), -math.log(2))
    found = describe(rows, said(list(before), [1, 2, 2, 1]), said(list(after), [2, 1, 2, 1]), seed=0)
    assert found["change"]["score"]["value"] == pytest.approx(2 / 3)
    assert found["change"]["domains"]["a"]["retention"]["value"] == pytest.approx(0.5)
    assert found["change"]["domains"]["b"]["retention"]["value"] == pytest.approx(2.0)
    assert found["before"]["domains"]["a"]["perplexity"]["value"] == pytest.approx(math.exp(3))
    assert found["change"]["suites"]["counting"] | {"accuracy": {}, "retention": {}} == {
        "accuracy": {}, "retention": {}, "lost": 1, "won": 0,
    }  # fmt: skip
    assert found["lost"] == [{"suite": "counting", "question": "one two", "answer": " three", "now": " nine ten"}]
    low, high = (found["change"]["score"][key] for key in ("low", "high"))
    assert low <= 2 / 3 <= high <= 1


def test_nothing_changed_is_one() -> None:
    """The same model twice loses nothing, exactly, and its layers are where they were."""
    view = view_of()
    rows = rows_of(view)
    before = listen(view, rows)
    found = describe(rows, before, listen(view, rows, before), seed=0)
    assert found["change"]["score"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["change"]["kl"] == pytest.approx(0, abs=1e-6) and found["change"]["agreement"] == 1.0
    assert all(row["cka"] == pytest.approx(1) for row in found["layers"])


def test_scoring_draws_nothing_and_leaves_the_mode() -> None:
    """The generator and the training mode are as they were."""
    view = view_of()
    view.loaded.model.train()
    state = torch.get_rng_state()
    listen(view, rows_of(view))
    assert torch.equal(torch.get_rng_state(), state) and view.loaded.model.training
    assert not any(module._forward_hooks for module in view.loaded.model.modules())


def test_some_texts_are_those_of_all() -> None:
    """What is scored in between is a part of what was scored before: same tokens, same losses."""
    view = view_of("llama", "bucketed")
    rows = rows_of(view)
    whole = listen(view, rows)
    part, chosen = rows.between(1)
    assert chosen == [0, 2] and not part.items
    assert whole.take(chosen, rows.places).losses == pytest.approx(listen(view, part).losses, abs=1e-5)


def test_the_set_that_comes_with_the_package() -> None:
    """Ten domains of six texts and five suites of 24 questions, whose right answer is at no place of its own."""
    known = read_set(RetentionConfig())
    assert Counter(Counter(p.domain for p in known.passages).values()) == {6: 10}
    assert Counter(Counter(i.suite for i in known.items).values()) == {24: 5}
    assert len({p.text for p in known.passages}) == 60 and len({i.question for i in known.items}) == 120
    places = Counter(i.answer for i in known.items)
    assert max(places.values()) < 60
    assert len(read_set(RetentionConfig(rows=2)).passages) == 20


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{}", "neither a text nor a question"),
        ("no json", "no JSON"),
        ('{"question": "a", "choices": ["b", "c"], "answer": "d"}', "none of its choices"),
        ('{"question": "a", "choices": ["b", "b"], "answer": 0}', "told apart"),
        ("", "holds no rows"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, line: str, what: str) -> None:
    """One message that says what, where and how to mend it."""
    path = tmp_path / "mine.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=what) as refusal:
        read_set(RetentionConfig(sources=str(path)))
    assert "mine.jsonl" in refusal.value.where and refusal.value.fix


def test_short_forms(tmp_path: Path) -> None:
    """A file, several, or `none`; the file's name is the domain where a row names none."""
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"text": "the cat"}) + "\n", encoding="utf-8")
    config = EvaluateConfig.model_validate({"retention": str(path)}).retention
    assert [p.domain for p in read_set(config).passages] == ["mine"]
    assert not EvaluateConfig.model_validate({"retention": "none"}).retention.on
    assert EvaluateConfig.model_validate({"retention": ["general", str(path)]}).retention.sources[0] == "general"
    with pytest.raises(ValueError, match="stands alone"):
        EvaluateConfig.model_validate({"retention": ["none", "general"]})
    with pytest.raises(ValueError, match="leave `every_steps` out"):
        EvaluateConfig.model_validate({"retention": {"sources": "none", "every_steps": 2}})
    off = EvaluateConfig.model_validate({"retention": "none"})
    assert EvaluateConfig.model_validate(off.model_dump(mode="json")) == off


def test_transfer_by_hand() -> None:
    """Three tasks.

    average (0.5 + 0.6 + 0.9) / 3 = 2/3; backward ((0.5 - 0.9) + (0.6 - 0.8)) / 2 = -0.3;
    forward ((0.4 - 0.3) + (0.5 - 0.2)) / 2 = 0.2; forgetting ((0.9 - 0.5) + (0.8 - 0.6)) / 2 = 0.3.
    """
    scores = [[0.9, 0.4, 0.1], [0.7, 0.8, 0.5], [0.5, 0.6, 0.9]]
    assert transfer(scores, [0.3, 0.3, 0.2]) == pytest.approx(
        {"average": 2 / 3, "backward_transfer": -0.3, "forward_transfer": 0.2, "forgetting": 0.3}
    )
    with pytest.raises(ValueError, match="T of 2 or more"):
        transfer([[1.0]], [1.0])
