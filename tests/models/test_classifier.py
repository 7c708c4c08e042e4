"""The head of a classification: what it reads in every layout, that it starts from the seed, and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertModel

from burnish.core.errors import UserError
from burnish.core.types import Batch
from burnish.models.classifier import Classifier, PoolingName, class_logits, new_classifier
from burnish.models.classifier_files import as_transformers, read_classifier, save_classifier, save_classifying_model
from burnish.models.config import ModelConfig
from burnish.models.forward import supports_packing
from burnish.models.load import Loaded, load
from burnish.models.pooling import declared_pooling
from tests.support.recipes import save_tiny
from tests.support.tiny import tiny_tokenizer

LABELS = ("negative", "neutral", "positive")
LENGTHS = (6, 3, 9, 1)


def headless(folder: Path, name: str) -> Loaded:
    """A tiny model without its head; BERT with a pooler, which the masked language model has none of."""
    save_tiny(folder, name)
    if name == "bert":
        torch.manual_seed(0)
        BertModel(load(ModelConfig(path=str(folder)), torch.float32, headless=True).model.config).save_pretrained(
            folder
        )
    return load(ModelConfig(path=str(folder)), torch.float32, headless=True)


def head_for(loaded: Loaded, pooling: PoolingName, seed: int = 0) -> Classifier:
    head = new_classifier(loaded.model, LABELS, pooling, dropout=0.0, bias=loaded.kind == "encoder", seed=seed)
    with torch.no_grad():
        head.weight.mul_(50)  # logits of size 1
    return head


def layouts() -> tuple[list[torch.Tensor], Batch, Batch]:
    """The same rows alone, padded and packed."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(4, 384, (n,), generator=generator) for n in LENGTHS]
    ids = torch.zeros(len(rows), max(LENGTHS), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    packed: Batch = {
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None],
        "segment_ids": torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(LENGTHS))[None],
        "segment_lengths": LENGTHS,
    }
    positions = torch.arange(max(LENGTHS)).expand_as(ids) * mask
    return rows, {"input_ids": ids, "attention_mask": mask, "position_ids": positions}, packed


@pytest.mark.parametrize("pooling", [p for p in get_args(PoolingName) if p != "tokens"])
@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_padded_and_packed_rows_are_read_as_alone(tmp_path: Path, name: str, pooling: PoolingName) -> None:
    """Logits of every row to 1e-5: padding is not read, and neither are the neighbours in a pack."""
    if pooling == "pooler" and name != "bert":
        pytest.skip("only BERT and its relatives have a pooler")
    loaded = headless(tmp_path, name)
    head, model = head_for(loaded, pooling), loaded.model
    assert supports_packing(model)
    rows, padded, packed = layouts()
    with torch.no_grad():
        alone = torch.cat([class_logits(model, head, {"input_ids": row[None]}) for row in rows])
        assert float(alone.std()) > 0.05
        for batch in (padded, packed):
            torch.testing.assert_close(class_logits(model, head, batch), alone, rtol=0, atol=1e-5)


def test_mean_by_hand(tmp_path: Path) -> None:
    """The head of the mean is the mean of what the head makes of each hidden state, as it is linear."""
    loaded = headless(tmp_path, "bert")
    head = head_for(loaded, "mean")
    ids = torch.arange(5, 12)[None]
    with torch.no_grad():
        states = loaded.model(ids).last_hidden_state[0]
        torch.testing.assert_close(class_logits(loaded.model, head, {"input_ids": ids})[0], head(states).mean(0))


def test_a_new_head_is_a_function_of_the_seed(tmp_path: Path) -> None:
    """Whatever drew random numbers before; with the standard deviation that the model's configuration names (0.02)."""
    loaded = headless(tmp_path, "llama")
    first = head_for(loaded, "last")
    torch.manual_seed(77)
    torch.testing.assert_close(head_for(loaded, "last").weight, first.weight, rtol=0, atol=0)
    assert not torch.equal(head_for(loaded, "last", seed=1).weight, first.weight)
    wide = Classifier([str(i) for i in range(100)], 200, "cls", generator=torch.Generator().manual_seed(0))
    assert float(wide.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert wide.weight.dtype == torch.float32


def test_a_pooler_that_the_files_lack_is_not_made_up(tmp_path: Path) -> None:
    """A masked language model has no pooler: none is added, and a head that would read it is refused."""
    save_tiny(tmp_path, "bert")
    loaded = load(ModelConfig(path=str(tmp_path)), torch.float32, headless=True)
    assert loaded.model.pooler is None and loaded.kind == "encoder"
    with pytest.raises(UserError, match="pooler"):
        new_classifier(loaded.model, LABELS, "pooler", dropout=0.0, bias=True, seed=0)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="encoder-decoder") as caught:
        load(ModelConfig(path=str(save_tiny(tmp_path, "t5"))), torch.float32, headless=True)
    assert "task: text" in caught.value.fix


@pytest.mark.parametrize(("name", "pooling"), [("bert", "pooler"), ("llama", "last"), ("gpt2", "last")])
def test_what_transformers_can_express_it_loads_with_equal_logits(
    tmp_path: Path, name: str, pooling: PoolingName
) -> None:
    """Alone and padded, to 1e-5, with the names of the classes in its configuration."""
    loaded = headless(tmp_path / "base", name)
    loaded.classifier = head_for(loaded, pooling)
    loaded.tokenizer = tiny_tokenizer()
    (tmp_path / "out").mkdir()
    said = save_classifying_model(tmp_path / "out", loaded)
    assert "AutoModelForSequenceClassification" in said
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.id2label == dict(enumerate(LABELS))
    _, padded, _ = layouts()
    with torch.no_grad():
        own = class_logits(loaded.model, loaded.classifier, padded)
        other = theirs(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits
    torch.testing.assert_close(other, own, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_what_transformers_cannot_express_is_said(tmp_path: Path, pooling: PoolingName) -> None:
    """BertForSequenceClassification reads its pooler; a head on a mean or on the bare first token is no such class."""
    loaded = headless(tmp_path / "base", "bert")
    loaded.classifier = head_for(loaded, pooling)
    assert as_transformers(loaded) is None
    (tmp_path / "out").mkdir()
    said = save_classifying_model(tmp_path / "out", loaded)
    assert "no class" in said and json.loads((tmp_path / "out/classifier.json").read_text())["read_by"] == said


def test_a_head_comes_back_and_damage_is_named(tmp_path: Path) -> None:
    loaded = headless(tmp_path / "base", "bert")
    head = head_for(loaded, "mean")
    save_classifier(tmp_path, head, "")
    back = read_classifier(tmp_path)
    assert back.labels == LABELS and back.pooling == "mean"
    assert torch.equal(back.weight, head.weight) and torch.equal(back.bias, head.bias)  # type: ignore[arg-type]
    tensors = load_file(tmp_path / "classifier.safetensors")
    save_file({"weight": tensors["weight"][:2].clone(), "bias": tensors["bias"]}, tmp_path / "classifier.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        read_classifier(tmp_path)
    (tmp_path / "classifier.safetensors").unlink()
    with pytest.raises(UserError, match="head is missing"):
        read_classifier(tmp_path)


def test_pooling_that_a_sentence_encoder_declares(tmp_path: Path) -> None:
    """Its file has one flag a mode; several at once are none of ours."""
    assert declared_pooling(tmp_path) is None
    place = tmp_path / "1_Pooling"
    place.mkdir()
    modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (place / "config.json").write_text(json.dumps(modes))
    assert declared_pooling(tmp_path) == "mean"
    (place / "config.json").write_text(json.dumps({**modes, "pooling_mode_max_tokens": True}))
    assert declared_pooling(tmp_path) is None
