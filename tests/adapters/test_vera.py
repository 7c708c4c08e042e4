"""VeRA: hand-worked values, the projections of `peft`, files both ways, and what it refuses."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from burnish.adapters.attach import attach
from burnish.adapters.load import load
from burnish.adapters.vera import Projections, VeraAdapter, VeraConfig, projections
from burnish.core.errors import UserError
from tests.adapters.common import logits, randomize
from tests.support.tiny import tiny, tiny_inputs

EXACT = {"atol": 1e-10, "rtol": 1e-10}
WEIGHTS = "adapter_model.safetensors"


def test_by_hand() -> None:
    """A = [[1, 2, 9]], B = [[3], [5], [9]], d = [2], b = [1, 10]; a host of 2 x 2 takes the first columns and rows.

    x = [1, 1]: A x = 3, d 3 = 6, B 6 = [18, 30], b gives [18, 300].
    """
    host = nn.Linear(2, 2, bias=False)
    shared = Projections(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[3.0], [5.0], [9.0]]))
    adapter = VeraAdapter(host, shared, 2.0)
    assert adapter.b.tolist() == [0.0, 0.0]
    with torch.no_grad():
        adapter.b.copy_(torch.tensor([1.0, 10.0]))
    x = torch.ones(1, 2)
    torch.testing.assert_close(adapter.after(host, (x,), {}, host(x)) - host(x), torch.tensor([[18.0, 300.0]]))


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
@pytest.mark.parametrize("kept", [True, False])
def test_peft_loads_ours(name: str, kept: bool, tmp_path: Path) -> None:
    """With the projections in the file, and without them, drawn again by `peft` from the seed."""
    ours, inputs = tiny(name), tiny_inputs(name)
    attached = attach(ours, VeraConfig(rank=8, projection_seed=5, save_projections=kept))
    randomize(attached.trainable(), std=0.5)
    attached.save(tmp_path)
    keys = set(load_file(tmp_path / WEIGHTS))
    assert ({"base_model.vera_A", "base_model.vera_B"} <= keys) is kept
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="Specified to not .* vera_A and vera_B")
        theirs: Any = peft.PeftModel.from_pretrained(tiny(name), str(tmp_path))
    torch.testing.assert_close(logits(theirs.double(), inputs), logits(ours.double(), inputs), **EXACT)
    assert not torch.allclose(logits(ours.float(), inputs), logits(tiny(name), inputs), atol=1e-2)


@pytest.mark.parametrize("kept", [True, False])
def test_we_load_what_peft_saved(kept: bool, tmp_path: Path) -> None:
    config = peft.VeraConfig(
        r=8, target_modules=["q_proj", "down_proj"], projection_prng_key=3, save_projection=kept, d_initial=0.2
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs: Any = peft.get_peft_model(tiny("llama"), config).eval()
        randomize([(n, p) for n, p in theirs.named_parameters() if p.requires_grad], std=0.5)
        theirs.save_pretrained(str(tmp_path))
    ours, inputs = tiny("llama"), tiny_inputs("llama")
    attached = load(tmp_path, ours)
    read = attached.configs[0]
    assert isinstance(read, VeraConfig)
    assert (read.rank, read.projection_seed, read.d_initial) == (8, 3, 0.2)
    torch.testing.assert_close(logits(ours.double(), inputs), logits(theirs.double(), inputs), **EXACT)


def test_projections_are_shared_also_in_a_copy_and_another_format() -> None:
    """One pair in memory for all sites, after what moves a model too."""
    model = tiny("llama")
    attach(model, VeraConfig(rank=8))
    for other in (model, copy.deepcopy(model).to(torch.float64)):
        adapters = [m for m in other.modules() if isinstance(m, VeraAdapter)]
        assert len(adapters) == 14
        assert len({a.shared.A.data_ptr() for a in adapters}) == 1
    assert not any("shared" in name for name in model.state_dict())


def test_projections_are_a_function_of_the_seed() -> None:
    """Uniform between -sqrt(6 / fan) and sqrt(6 / fan): the standard deviation is sqrt(2 / fan)."""
    one, other = (projections(64, [(32, 16), (8, 128)], seed) for seed in (1, 1))
    assert torch.equal(one.A, other.A) and torch.equal(one.B, other.B)
    assert one.A.shape == (64, 32) and one.B.shape == (128, 64)
    assert float(one.A.std()) == pytest.approx((2 / 32) ** 0.5, rel=0.05)
    assert float(one.B.std()) == pytest.approx((2 / 64) ** 0.5, rel=0.05)


def test_refuses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="VeRA needs a linear or Conv1D layer"):
        attach(tiny("gpt2"), VeraConfig(targets="wte"))
    attach(tiny("llama"), VeraConfig(rank=8)).save(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({k: t for k, t in tensors.items() if not k.endswith("vera_B")}, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match="the shared projection vera_B is missing"):
        load(tmp_path, tiny("llama"))
