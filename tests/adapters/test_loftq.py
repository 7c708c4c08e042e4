"""LoftQ: LoRA that begins at what 4 bits lose, against Eckart and Young's theorem, `peft`'s decomposition and a run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from peft.utils.loftq_utils import _low_rank_decomposition
from safetensors.torch import load_file

from burnish.adapters.attach import attach
from burnish.adapters.lora import LoraConfig
from burnish.adapters.lora_layers import LoraAdapter, matrix_of
from burnish.adapters.lora_loftq import start_from_whole
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.core.events import Event, Stepped
from burnish.models.quantize import is_quantized
from burnish.models.quantize import matrix_of as unpacked
from burnish.train.config import RunConfig
from burnish.train.run import resume_run, start_run
from burnish.train.setup import set_up
from burnish.train.verify import verify_run
from tests.adapters.common import logits
from tests.support.recipes import configured
from tests.support.tiny import tiny, tiny_inputs, tiny_kbit

pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_it_starts_at_the_principal_part_of_what_was_lost(name: str) -> None:
    """``s B A`` is `peft`'s ``L R`` of ``W - Q``, and what is left the sum of the squares of the other singular values.

    The model is nearer to the whole one than the base in 4 bits is, which ``disabled()`` still gives to the bit.
    """
    model, whole, inputs = tiny_kbit(name), tiny(name), tiny_inputs(name)
    base, wanted = logits(model, inputs), logits(whole, inputs)
    attached = attach(model, LoraConfig(rank=16, alpha=4, init="loftq"))
    assert torch.equal(logits(model, inputs), base)  # nothing is known of the whole weights yet
    placed = [item for item in attached.placed if is_quantized(item.site.host)]  # T5's `wo` stays whole
    assert start_from_whole(attached, lambda: whole) == len(placed) > 7
    for item in placed:
        adapter, W = item.adapter, matrix_of(whole.get_submodule(item.site.name))
        assert isinstance(adapter, LoraAdapter)
        lost = W - unpacked(item.site.host)
        update = adapter.scale * (adapter.B @ adapter.A).detach()
        oracle = _low_rank_decomposition(lost, 16)
        torch.testing.assert_close(update, oracle["L"] @ oracle["R"], atol=1e-6, rtol=1e-4)
        rest = torch.linalg.svdvals(lost.double())[16:].square().sum()
        torch.testing.assert_close((lost - update).double().square().sum(), rest, rtol=1e-3, atol=1e-9)
    before, after = ((x - wanted).square().mean() for x in (base, logits(model, inputs)))
    assert after < 0.8 * before
    with attached.disabled():
        assert torch.equal(logits(model, inputs), base)


def test_a_matrix_that_stays_whole_starts_at_zero() -> None:
    """`skip` keeps the down projections whole: nothing was lost there, so their B is zero."""
    model, whole = tiny_kbit("llama", skip=("mlp.down",)), tiny("llama")
    attached = attach(model, LoraConfig(rank=4, init="loftq"))
    start_from_whole(attached, lambda: whole)
    zero = {item.site.name.endswith("down_proj"): bool(item.adapter.B.any()) for item in attached.placed}  # type: ignore[union-attr]
    assert zero == {True: False, False: True}


def test_the_whole_weights_are_read_only_where_they_are_needed() -> None:
    def never() -> None:
        raise AssertionError("the whole weights were read")

    assert start_from_whole(attach(tiny_kbit("llama"), LoraConfig(rank=4)), never) == 0  # type: ignore[arg-type]


def test_a_whole_base_is_refused() -> None:
    with pytest.raises(UserError, match="this base keeps its weights whole") as caught:
        attach(tiny("llama"), LoraConfig(rank=4, init="loftq"))
    assert "nf4" in caught.value.fix


def small(folder: Path, **sections: object) -> RunConfig:
    folder.mkdir(exist_ok=True)
    adapter = {"method": "lora", "rank": 8, "init": "loftq"}
    values = configured(folder, adapter=adapter, **sections).model_dump(mode="json")
    return build(RunConfig, {**values, "model": {"path": values["model"]["path"], "quantization": "nf4"}})


def test_a_run_starts_so_resumes_and_is_read_back(tmp_path: Path) -> None:
    """From a recipe; cut off after 3 of 6 updates and resumed it ends with the same bits; the files give what was."""
    setup = set_up(small(tmp_path / "a"))
    assert all(bool(p.any()) for name, p in setup.trainable if name.endswith(".B"))
    whole = start_run(small(tmp_path / "a")).folder

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    assert start_run(small(tmp_path / "b"), callbacks=[stop]).reason == "interrupted"
    resumed = resume_run(tmp_path / "b" / "runs" / "run").folder
    first, second = (load_file(folder / "final" / "adapter_model.safetensors") for folder in (whole, resumed))
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    assert all(check.passed for check in verify_run(whole))
