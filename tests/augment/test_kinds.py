"""Each kind changes what it says it changes, and nothing that a label may hang on."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from burnish.augment import synonyms as synonyms_module
from burnish.augment.adversarial import Adversarial, Attempt
from burnish.augment.lexicon import decides, is_feeling, is_negation
from burnish.augment.neighbours import Neighbours, whole_words
from burnish.augment.paraphrase import tidy
from burnish.augment.spelling import BESIDE
from burnish.augment.words import Words, in_case_of, may_replace, part_of_speech
from burnish.core.errors import UserError
from burnish.data.augment_config import AdversarialConfig
from burnish.models.classifier import Classifier
from burnish.models.config import ModelConfig
from burnish.models.load import Loaded, load
from tests.augment.common import method, save_masked, source
from tests.support.recipes import save_tiny

TEXT = "Well, @united never FIXED my (blue) bag at http://t.co/x and I don't like the gate 42!"
UNTOUCHED = ("@united", "never", "http://t.co/x", "don't", "like", "42!", "Well,")


def variants(entry: dict[str, Any], text: str = TEXT, count: int = 60) -> list[str]:
    made = method(entry).variants([source(text, seed=i) for i in range(count)])
    return [v.text for row in made for v in row]


def test_a_text_is_taken_apart_and_put_together() -> None:
    for text in (TEXT, "", "  two\n\nlines\t", "a"):
        assert str(Words.of(text)) == text


def test_words_that_a_label_may_hang_on_are_known() -> None:
    for word in ("not", "don't", "DON’T", "cannot", "but", "never"):
        assert is_negation(word)
    for word in ("great", "loved", "loves", "disappointing", "unhappy", "Unhelpful", "crashed"):
        assert is_feeling(word) and decides(word)
    assert not any(decides(w) for w in ("plane", "gate", "phone", "the"))


def test_only_plain_words_are_changed() -> None:
    """Names, links, numbers, negations and words of feeling are not; punctuation stays around what is."""
    words = Words.of(TEXT)
    assert [words.core(i) for i in words.telling()] == ["FIXED", "blue", "bag", "gate"]
    words.put(words.telling()[1], "green")
    assert "(green)" in str(words)


def test_a_word_is_written_as_the_one_it_replaces() -> None:
    assert [in_case_of(old, "film") for old in ("MOVIE", "Movie", "movie", "A")] == ["FILM", "Film", "film", "Film"]


def test_what_may_take_a_place() -> None:
    """The same ending, no form of the same word, nothing that a label may hang on."""
    assert may_replace("movie", "film") and may_replace("flying", "sailing")
    for old, new in (("movie", "movies"), ("walk", "walking"), ("movie", "great"), ("movie", "not"), ("film", "Film")):
        assert not may_replace(old, new)
    assert [part_of_speech(w) for w in ("quickly", "station", "bus", "buses")] == ["adverb", "noun", "base", "plural"]


@pytest.mark.parametrize("kind", ["delete", "swap", "spelling"])
def test_edits_leave_guarded_words_alone(kind: str) -> None:
    made = variants({"kind": kind, "rate": 0.5})
    assert len(made) == 60 and all(text != TEXT for text in made)
    for text in made:
        assert all(word in text.split() for word in UNTOUCHED)


def test_deletion_takes_its_share() -> None:
    """Of 400 words each goes with probability 0.2: 80 ± 8, held to five standard deviations."""
    text = " ".join(f"{a}{b}word" for a in "abcdefghij" for b in "abcdefghij" * 4)
    (made,) = method({"kind": "delete", "rate": 0.2}).variants([source(text)])
    spread = 5 * math.sqrt(400 * 0.2 * 0.8)
    assert abs(400 - len(made[0].text.split()) - 80) < spread and len(made[0].changes) == 400 - len(
        made[0].text.split()
    )


def test_a_swap_keeps_the_words() -> None:
    for text in variants({"kind": "swap", "rate": 0.3}):
        assert sorted(text.split()) == sorted(TEXT.split())


def test_a_slip_is_one_of_a_keyboard() -> None:
    """`s` lies between a and d, below w and e, above z and x; one slip changes a length by one at most."""
    assert set(BESIDE["s"]) == set("adwezx")
    for text in variants({"kind": "spelling"}, "the elephant walks"):
        changed = [(a, b) for a, b in zip(["the", "elephant", "walks"], text.split(), strict=True) if a != b]
        assert len(changed) == 1 and abs(len(changed[0][0]) - len(changed[0][1])) <= 1
        assert changed[0][0][0] == changed[0][1][0]


def test_a_row_with_nothing_to_change_gives_nothing() -> None:
    for kind in ("delete", "swap", "spelling"):
        assert variants({"kind": kind}, "@united not 42!", 3) == []


# --- kinds that read a model ------------------------------------------------------------------------------------------


class Space:
    """A model of which only the vocabulary and the input embeddings are asked for: `film` and `movie` lie together,
    and so do `bad` and `good`."""

    def __init__(self, vocabulary: dict[str, int], rows: list[list[float]]) -> None:
        self.path, embedding = "space", nn.Embedding.from_pretrained(torch.tensor(rows))
        self.model = type("M", (), {"get_input_embeddings": lambda _: embedding})()
        self.tokenizer = type("T", (), {"get_vocab": lambda _: vocabulary})()


def space() -> Any:
    vocabulary = {"film": 0, "movie": 1, "##vie": 2, "good": 3, "bad": 4, "river": 5, "Film": 6}
    return Space(vocabulary, [[1, 0], [1, 0.1], [1, 0], [-1, 2], [-1, 2.1], [-1, -1], [1, 0]])


def test_neighbours_are_whole_words_by_cosine() -> None:
    """By hand: the mean of the five whole words is (-0.2, 0.64); film and movie then have the cosine
    (1.2·1.2 + 0.64·0.54) / (|(1.2, -0.64)|·|(1.2, -0.54)|)."""
    found = Neighbours(space())
    assert found.words == ["film", "movie", "good", "bad", "river"]
    a, b = torch.tensor([1.2, -0.64], dtype=torch.float64), torch.tensor([1.2, -0.54], dtype=torch.float64)
    ((word, cosine),) = found.of("FILM", 0.9)
    assert word == "movie" and cosine == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-4)
    assert found.of("good", 0.9) == [] and found.of("unheard", 0.0) == []


@pytest.mark.parametrize("mark", ["Ġ", "▁"])
def test_words_of_other_tokenizers(mark: str) -> None:
    vocabulary = {f"{mark}film": 0, "vie": 1, f"{mark}movie": 2, "movie": 3}
    assert whole_words(Space(vocabulary, [[0.0]] * 4))[0] == ["film", "movie"]  # type: ignore[arg-type]


def test_wordnet_without_its_data_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a corpus cannot be read, the fix names the download and the other source."""

    class Absent:
        def ensure_loaded(self) -> None:
            raise LookupError("no such resource")

    module = type("corpus", (), {"wordnet": Absent()})
    monkeypatch.setitem(sys.modules, "nltk", type("nltk", (), {"corpus": module}))
    monkeypatch.setitem(sys.modules, "nltk.corpus", module)
    with pytest.raises(UserError, match="not on this machine") as refusal:
        method({"kind": "synonyms", "source": "wordnet"})
    assert "downloader wordnet" in refusal.value.fix and "embedding" in refusal.value.fix
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(UserError, match="not installed"):
        method({"kind": "synonyms", "source": "wordnet"})


def test_wordnets_synonyms_pass_the_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a word's lemmas those go in that are one word, another word, and of no feeling."""
    names = ("movie", "film", "picture_show", "disaster", "Films")
    lemmas = [type("Lemma", (), {"name": lambda self, n=n: n})() for n in names]
    synset = type("Synset", (), {"lemmas": lambda self: lemmas})()
    monkeypatch.setattr(synonyms_module, "wordnet", type("W", (), {"synsets": lambda self, w: [synset]}))
    made = variants({"kind": "synonyms", "source": "wordnet", "rate": 0.01}, "the film", 5)
    assert set(made) == {"the movie"}


def test_a_masked_model_proposes_words(tmp_path: Path) -> None:
    """What it puts in is a word of its vocabulary that passes the guards, at the place that was masked."""
    folder = save_masked(tmp_path / "model")
    entry = {"kind": "masked", "model": str(folder), "copies": 2, "rate": 0.5}
    rows = [source("the film was not good, the plot (story) bad", seed=i) for i in range(8)]
    made = method(entry).variants(rows)
    again = method(entry).variants([source(r.text, seed=i) for i, r in enumerate(rows)])
    assert made == again and sum(map(len, made)) >= 12
    for variant in (v for row in made for v in row):
        words = variant.text.split()
        assert words[3:5] == ["not", "good,"] and words[-1] == "bad" and words[-2].startswith("(")
        assert all(c["to"] in ("film", "movie", "plot", "story", "actor", "scene", "music") for c in variant.changes)


def test_a_model_without_a_masked_head_is_refused(tmp_path: Path) -> None:
    BertModel(BertConfig.from_pretrained(save_masked(tmp_path))).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="would be random"):
        method({"kind": "masked", "model": str(tmp_path)}).variants([source("the film was long")])


def test_back_translation_goes_through_two_models(tmp_path: Path) -> None:
    """Random T5s write nonsense, but the same for the same seed, and what stands between is noted."""
    there, back = save_tiny(tmp_path / "a", "t5"), save_tiny(tmp_path / "b", "t5")
    entry = {"kind": "back_translation", "forward": str(there), "backward": str(back), "max_new_tokens": 100,
             "temperature": 5.0}  # fmt: skip
    rows = ["one two three", "the cat sat"]
    made, again = (method(entry).variants([source(t) for t in rows]) for _ in range(2))
    assert made == again and len(made) == 2
    for variant in (v for row in made for v in row):
        assert variant.changes[0]["between"]


def test_a_decoder_translates_nothing(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "a", "llama")
    entry = {"kind": "back_translation", "forward": str(folder), "backward": str(folder)}
    with pytest.raises(UserError, match="no encoder-decoder"):
        method(entry).variants([source("one two")])


def test_an_answer_is_tidied() -> None:
    assert tidy('"Nice flight."') == "Nice flight." and tidy("\n\nSo it was.\n\nAnything else?") == "So it was."
    assert tidy("  ") == "" and tidy('He said "no"') == 'He said "no"'


# --- adversarial ------------------------------------------------------------------------------------------------------


def classifier(folder: Path, seed: int = 0) -> Loaded:
    """A tiny encoder over the words of the tests with a random head."""
    torch.manual_seed(seed)
    loaded = load(ModelConfig(path=str(save_masked(folder))), torch.float32, headless=True)
    head = Classifier(("a", "b"), 16, "mean", generator=torch.Generator().manual_seed(seed), spread=3.0)
    loaded.classifier = head
    return loaded


def attacker(folder: Path, **settings: Any) -> Adversarial:
    values = {"run": "run", "similarity": str(folder), "min_cosine": -1.0, "min_similarity": -1.0, "max_changed": 1.0}
    loaded = classifier(folder)
    return Adversarial("adversarial", AdversarialConfig(**{**values, **settings}), 0, lambda path: loaded)


def test_the_gradient_is_that_of_the_input_embeddings(tmp_path: Path) -> None:
    """Held against the gradient of the embedding matrix itself: rows of tokens that occur once are equal."""
    attack = attacker(tmp_path)
    loaded = attack._loaded
    predicted, gradients, offsets = attack._look(["the film was bad"], [0])
    matrix = loaded.model.get_input_embeddings().weight.requires_grad_()
    ids = torch.tensor(loaded.tokenizer(["the film was bad"])["input_ids"])
    pooled = loaded.model(input_ids=ids).last_hidden_state.mean(1)
    assert loaded.classifier is not None
    nn.functional.cross_entropy(loaded.classifier(pooled), torch.tensor([0])).backward()
    assert matrix.grad is not None
    torch.testing.assert_close(gradients[0], matrix.grad[ids[0]], atol=1e-6, rtol=1e-4)
    assert offsets[0][1:3] == [(0, 3), (4, 8)] and len(predicted) == 1


def test_the_replacement_with_the_largest_gain_is_made(tmp_path: Path) -> None:
    """Of all telling words and their neighbours, by (e' - e)·g in float64; a place is used once."""
    attack = attacker(tmp_path)
    text = "the film was music"
    _, gradients, offsets = attack._look([text], [0])
    weight = attack._loaded.model.get_input_embeddings().weight.double()
    ids, g = attack._loaded.tokenizer.get_vocab(), gradients[0].double()
    gains = {
        (place, new): float((weight[ids[new]] - weight[ids[old]]) @ g[token])
        for place, old, token in ((1, "film", 2), (3, "music", 4))
        for new, _ in attack._neighbours.of(old, -1.0)
    }
    best = max(gains, key=lambda k: gains[k])
    attempt = Attempt(Words.of(text), 0, 4)
    assert attack._replace(attempt, gradients[0], offsets[0])
    change = attempt.changes[0]
    assert (change["place"], change["to"]) == best and change["gain"] == pytest.approx(gains[best], abs=1e-3)


def test_what_is_kept_flips_the_model_and_keeps_the_guards(tmp_path: Path) -> None:
    """The model is right on each source, wrong on each new row, and only words that may be were replaced."""
    attack = attacker(tmp_path)
    loaded, draw = attack._loaded, random.Random(0)
    assert loaded.classifier is not None
    texts = [" ".join(draw.choices(["film", "movie", "plot", "not", "bad", "scene", "music"], k=5)) for _ in range(40)]
    truth = attack._look(texts, [0] * 40)[0]
    rows = [source(t, loaded.classifier.labels[y]) for t, y in zip(texts, truth, strict=True)]
    made = attack.variants(rows)
    found = [(row, v) for row, some in zip(rows, made, strict=True) for v in some]
    assert found, "the tiny model holds against everything"
    for row, variant in found:
        answer = loaded.classifier.labels[attack._look([variant.text], [0])[0][0]]
        assert answer != row.label and variant.changes[-2]["flipped_to"] == answer
        for old, new in zip(row.text.split(), variant.text.split(), strict=True):
            assert old == new or may_replace(old, new)
    wrong = [source(t, loaded.classifier.labels[1 - y]) for t, y in zip(texts, truth, strict=True)]
    assert not any(attack.variants(wrong)), "rows that the model gets wrong have no adversarial example"


def test_a_run_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not know the class `c`"):
        attacker(tmp_path).variants([source("the film", "c")])
