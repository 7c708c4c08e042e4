"""Learning rates by depth, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish.train.setup import Setup
from tests.regularizers.common import made


def rates(setup: Setup, stage: int = 0) -> dict[str, float]:
    """Factor on the learning rate of every trained parameter, as the loop reads it."""
    optimizer = setup.optimizer()
    setup.stages.enter(setup.stages.stages[stage].begin, setup.trainable, optimizer)
    scales = {id(p): g["rate_scale"] for g in optimizer.param_groups for p in g["params"]}
    return {name: scales[id(p)] for name, p in setup.trainable}


def by_part(found: dict[str, float], *parts: str) -> list[set[float]]:
    return [{round(rate, 12) for name, rate in found.items() if part in f".{name}"} for part in parts]


def test_of_full_tuning() -> None:
    """Two layers, decay 1/2: 1 for the last layer and the norm behind it, 1/2 below it, 1/4 for the embeddings."""
    found = rates(made("llama", {"method": "full", "layer_decay": 0.5}, []))
    parts = by_part(found, ".layers.1.", ".model.norm.", ".layers.0.", ".embed_tokens.")
    assert parts == [{1.0}, {1.0}, {0.5}, {0.25}]


def test_of_adapters_with_a_rate_of_their_own() -> None:
    """LoRA+ at ratio 16 and a rate scale of 2: A learns at 2 and B at 32 times the rate, below at 0.9 times that."""
    adapter = {"method": "lora", "rank": 2, "b_rate_scale": 16.0, "rate_scale": 2.0, "layer_decay": 0.9}
    found = rates(made("gpt2", adapter, []))
    for letter, rate in (("A", 2.0), ("B", 32.0)):
        own = {name: value for name, value in found.items() if name.endswith(letter)}
        assert by_part(own, ".h.1.", ".h.0.") == [{rate}, {round(0.9 * rate, 12)}]


def test_an_encoder_lies_below_its_decoder() -> None:
    """Four layers in all: decoder 1, d; encoder d^2, d^3; the shared embeddings d^4."""
    found = rates(made("t5", {"method": "full", "layer_decay": 0.5}, []))
    parts = by_part(
        found, ".decoder.block.1.", ".decoder.block.0.", ".encoder.block.1.", ".encoder.block.0.", ".shared."
    )
    assert parts == [{1.0}, {0.5}, {0.25}, {0.125}, {0.0625}]


def test_gradual_unfreezing() -> None:
    """Head, then the last block with it, then all (Howard and Ruder, 2018, section 3.3), the head at 10 times the rate.

    Of each stage the parameters that it trains, and their factors.
    """
    stages: list[dict[str, Any]] = [
        {"train": "head", "steps": 1},
        {"train": ["head", "layer.1"], "steps": 1},
        {"train": "all", "steps": 2},
    ]
    train = {"max_steps": None, "learning_rate": 1e-3}
    setup = made("bert", {"method": "full", "layer_decay": 0.5}, [], stages=stages, train=train)
    chosen = [stage.names for stage in setup.stages.stages]
    assert all(name.startswith("classifier.") for name in chosen[0])
    assert {name.split(".")[0] for name in chosen[1]} == {"classifier", "encoder"}
    assert all(".layer.1." in f".{name}" or name.startswith("classifier.") for name in chosen[1])
    assert len(chosen[2]) == len(setup.trainable)
    parts = by_part(rates(setup, 2), ".classifier.", ".layer.1.", ".layer.0.", ".embeddings.")
    assert parts == [{10.0}, {1.0}, {0.5}, {0.25}]


def test_above_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"layer_decay"):
        made("llama", {"method": "full", "layer_decay": 1.5}, [])
