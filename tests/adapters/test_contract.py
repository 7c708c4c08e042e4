"""The contract that every registered method keeps on four kinds of models, and every variant in `variants.py`.

A new method is found in the registry.
"""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from transformers import PreTrainedModel

from burnish.adapters.attach import Attached, attach
from burnish.adapters.base import NotMergeable
from burnish.adapters.load import load
from burnish.adapters.registry import METHODS, AdapterConfig
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.core.types import Batch
from burnish.models.forward import supports_packing
from burnish.objectives.context import ModelContext
from tests.adapters.common import NAMES, gradients, logits, loss, train_steps
from tests.adapters.variants import CASES, READS_BASE, ROUNDED, case
from tests.support.refusals import REFUSED, skip_refused
from tests.support.tiny import tiny, tiny_inputs, tiny_kbit

every_method = pytest.mark.parametrize("method", sorted(CASES))
every_model = pytest.mark.parametrize("name", NAMES)


def make(method: str, name: str) -> tuple[PreTrainedModel, dict[str, Tensor], Attached]:
    skip_refused(method, name)
    model = tiny(name)
    return model, tiny_inputs(name, rows=4), attach(model, case(method), seed=3)


@pytest.mark.parametrize(("method", "name"), REFUSED)
def test_what_a_model_cannot_carry_is_refused_by_name(method: str, name: str) -> None:
    model, base = tiny(name), tiny(name)
    with pytest.raises(UserError, match=REFUSED[method, name]) as caught:
        attach(model, METHODS[method].config(method=method))
    assert caught.value.fix
    assert [n for n, _ in model.named_modules()] == [n for n, _ in base.named_modules()]
    assert all(p.requires_grad for p in model.parameters())
    assert set(vars(model)) == set(vars(base))


@every_method
@every_model
def test_starts_as_the_base_where_it_says_so(method: str, name: str) -> None:
    model, inputs, _ = make(method, name)
    base = logits(tiny(name), inputs)
    if method in ROUNDED:
        torch.testing.assert_close(logits(model, inputs), base, atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(logits(model, inputs), base) == METHODS[case(method).method].identity


@every_method
@every_model
def test_trains_only_its_own_parameters_and_all_of_them(method: str, name: str) -> None:
    """Two updates, with an evaluation without gradients before and between: what is trained moved, the rest did not."""
    model, inputs, attached = make(method, name)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(2):
        model.eval()
        logits(model, inputs)
        model.train()
        if not any(p.grad is not None for p in model.parameters()):
            optimizer = torch.optim.AdamW([p for _, p in attached.trainable()], lr=1e-2, weight_decay=0.0)
        optimizer.zero_grad()
        loss(model, inputs).backward()
        assert attached.without_gradient() == []
        optimizer.step()
    own = {n for n, _ in attached.trainable()}
    assert own == {n for n, p in model.named_parameters() if p.requires_grad}
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == own
    assert sum(p.numel() for n, p in model.named_parameters() if n in own) == attached.parameters_count > 0


@every_method
@every_model
def test_what_is_saved_loads_with_equal_logits(method: str, name: str, tmp_path: Path) -> None:
    model, inputs, attached = make(method, name)
    train_steps(model, attached.trainable(), inputs, 2)
    attached.save(tmp_path / "saved")
    if METHODS[case(method).method].format == "model":
        again = type(model).from_pretrained(tmp_path / "saved").eval()
    else:
        again = tiny(name)
        assert load(tmp_path / "saved", again).configs == attached.configs
    assert torch.equal(logits(again, inputs), logits(model, inputs))
    assert not torch.equal(logits(model, inputs), logits(tiny(name), inputs))


@every_method
@every_model
def test_merges_to_equal_logits_or_refuses(method: str, name: str) -> None:
    model, inputs, attached = make(method, name)
    keys = list(tiny(name).state_dict())
    train_steps(model, attached.trainable(), inputs, 2)
    before = logits(model, inputs)
    try:
        attached.merge_()
    except NotMergeable:
        assert torch.equal(logits(model, inputs), before)
        return
    torch.testing.assert_close(logits(model, inputs), before, atol=1e-5, rtol=1e-4)
    assert list(model.state_dict()) == keys


@every_method
@every_model
def test_detaching_restores_the_base_to_the_bit_or_is_refused(method: str, name: str) -> None:
    model, inputs, attached = make(method, name)
    base = tiny(name)
    train_steps(model, attached.trainable(), inputs, 2)
    if attached.trains_base:
        for forbidden in (attached.detach_, lambda: attached.disabled().__enter__()):
            with pytest.raises(UserError, match="trains the base's own weights"):
                forbidden()
        return
    with attached.disabled():
        assert torch.equal(logits(model, inputs), logits(base, inputs))
    attached.detach_()
    assert torch.equal(logits(model, inputs), logits(base, inputs))
    assert [n for n, _ in model.named_modules()] == [n for n, _ in base.named_modules()]
    assert [(n, p.requires_grad) for n, p in model.named_parameters()] == [
        (n, True) for n, _ in base.named_parameters()
    ]
    assert type(model) is type(base)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert set(vars(model)) == set(vars(base))


@every_method
def test_configuration_round_trips(method: str) -> None:
    config = case(method)
    values = config.model_dump(mode="json")
    assert build(type(config), values) == config
    union: TypeAdapter[AdapterConfig] = TypeAdapter(AdapterConfig)
    assert union.validate_json(config.model_dump_json()) == config
    assert all(field.description for n, field in type(config).model_fields.items() if n != "method")


@every_method
@every_model
def test_accumulated_gradients_equal_those_of_one_batch(method: str, name: str) -> None:
    """The summed loss over 4 rows is the sum of 4 summed losses, so their gradients add up."""
    model, inputs, attached = make(method, name)
    loss(model, inputs).backward()
    whole = gradients(attached.trainable())
    model.zero_grad()
    for row in range(4):
        loss(model, inputs, slice(row, row + 1)).backward()
    assert_equal_gradients(gradients(attached.trainable()), whole)


@every_method
@every_model
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_no_gradient(method: str, name: str, reentrant: bool) -> None:
    """With a frozen base no input of a layer asks for a gradient; in peers this left LoRA dead."""
    model, inputs, attached = make(method, name)
    model.train()
    loss(model, inputs).backward()
    plain = gradients(attached.trainable())
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    loss(model, inputs).backward()
    assert attached.without_gradient() == []
    assert_equal_gradients(gradients(attached.trainable()), plain)


@every_method
@every_model
def test_packed_rows_give_the_gradients_of_rows_alone(method: str, name: str) -> None:
    model, _, attached = make(method, name)
    generator = torch.Generator().manual_seed(5)
    rows = [torch.randint(4, 384, (n,), generator=generator) for n in (7, 4, 5)]
    if not supports_packing(model):
        with pytest.raises(UserError, match="cannot be packed"):
            ModelContext(model).hidden(packed(rows))
        return
    for row in rows:
        outputs(model, attached, packed([row])).pow(3).sum().backward()
    reached = [(n, p) for n, p in attached.trainable() if p.grad is not None]  # BERT's head lies behind these states
    alone = gradients(reached)
    assert len(alone) >= 0.8 * len(attached.trainable())
    model.zero_grad()
    outputs(model, attached, packed(rows)).pow(3).sum().backward()
    assert_equal_gradients(gradients(reached), alone)


@every_method
@every_model
def test_a_copy_of_the_model_is_independent(method: str, name: str) -> None:
    model, inputs, attached = make(method, name)
    twin = copy.deepcopy(model)
    before = logits(twin, inputs)
    train_steps(model, attached.trainable(), inputs, 1)
    assert torch.equal(logits(twin, inputs), before)
    assert not torch.equal(logits(model, inputs), before)


def outputs(model: PreTrainedModel, attached: Attached, batch: Batch) -> Tensor:
    """The hidden states, and what the head makes of them where the head is all that is trained."""
    hidden = ModelContext(model).hidden(batch)
    if all(site.role == "head" for site in attached.sites):
        return model.get_output_embeddings()(hidden)
    return hidden


@every_method
@every_model
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_base_of_4_bits(method: str, name: str, checkpointing: bool, tmp_path: Path) -> None:
    """On it a method is refused by name, or starts, trains, saves, loads and comes off as on any other base."""
    pytest.importorskip("bitsandbytes")
    skip_refused(method, name)
    model, base, inputs = tiny_kbit(name), tiny_kbit(name), tiny_inputs(name, rows=4)
    config = case(method)
    if METHODS[config.method].format == "model":
        with pytest.raises(UserError, match=f"`{method}` trains .* in 4 bits"):
            attach(model, config)
        assert torch.equal(logits(model, inputs), logits(base, inputs))
        return
    if method in READS_BASE:
        with pytest.raises(UserError, match="are packed into few bits") as caught:
            attach(model, config)
        assert "plain LoRA" in caught.value.fix
        return
    attached = attach(model, config, seed=3)
    if METHODS[config.method].identity and method not in ROUNDED:
        assert torch.equal(logits(model, inputs), logits(base, inputs))
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": True})
    train_steps(model.train(), attached.trainable(), inputs, 2)
    assert attached.without_gradient() == []
    tuned = logits(model.eval(), inputs)
    assert not torch.equal(tuned, logits(base, inputs))
    attached.save(tmp_path / "saved")
    again = tiny_kbit(name)
    load(tmp_path / "saved", again)
    assert torch.equal(logits(again, inputs), tuned)
    with contextlib.suppress(NotMergeable):
        copy.deepcopy(attached).merge_()
    if not attached.trains_base:
        attached.detach_()
        assert torch.equal(logits(model, inputs), logits(base, inputs))


def packed(rows: list[Tensor]) -> Batch:
    lengths = tuple(len(row) for row in rows)
    labels = torch.cat([torch.cat([row[1:], torch.tensor([-100])]) for row in rows])
    return {
        "input_ids": torch.cat(rows)[None],
        "labels": labels[None],
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "segment_ids": torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None],
        "segment_lengths": lengths,
    }


TOLERANCE = 1e-5
"""Largest difference of a gradient from what it is to be, as a share of the largest gradient."""


def assert_equal_gradients(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    scale = max(float(g.abs().max()) for g in wanted.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(
            found[name], gradient, atol=TOLERANCE * max(scale, 1.0), rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
