"""What a plan counts, against tensors that are really there, and against arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, PreTrainedModel

from burnish.adapters.registry import METHODS
from burnish.core.errors import UserError
from burnish.core.types import Batch
from burnish.models.config import QuantizationConfig
from burnish.models.quantize import bytes_by_part, quantize_
from burnish.models.shapes import built
from burnish.objectives.sft import supervised_terms
from burnish.optim.config import OptimConfig
from burnish.optim.groups import build_optimizer
from burnish.plan.cards import CARDS, card_of
from burnish.plan.engines import Engine, share_of
from burnish.plan.footprint import Footprint, footprint, optimizer_bytes
from burnish.plan.ledger import Ledger
from burnish.plan.memory import Overhead, memory_plan
from burnish.plan.presets import preset, presets
from burnish.plan.shadow import Numbers, shadow_of
from tests.support.tiny import tiny

FP32 = Numbers(torch.float32, torch.float32)
LENGTHS = (9, 7)

WHOLE = Footprint(
    weights=1000, adapters=100, gradients=100, optimizer=200, activations=50, working=130, evaluation=10,
    fingerprint=16, trained=25, largest=40,
)  # fmt: skip


def pack() -> Batch:
    """Two rows end to end, the second half of each with a label."""
    total = sum(LENGTHS)
    labels = torch.cat([torch.where(torch.arange(n) >= n // 2, 5, -100) for n in LENGTHS])[None]
    return Batch(
        input_ids=torch.arange(total)[None] % 300,
        labels=labels,
        position_ids=torch.cat([torch.arange(n) for n in LENGTHS])[None],
        segment_ids=torch.repeat_interleave(torch.arange(2), torch.tensor(LENGTHS))[None],
        segment_lengths=LENGTHS,
        row_ids=(0, 1),
    )


def traced(method: str, name: str = "llama", **options: Any) -> tuple[Footprint, Any]:
    """The footprint of a tiny model, and its shadow."""
    shapes = built(tiny(name).config, name)
    shadow = shadow_of(shapes, [METHODS[method].config(method=method)], FP32, **options)
    return footprint(shadow, pack(), supervised_terms()), shadow


def test_a_ledger_counts_what_lives_and_what_lived_at_once() -> None:
    """100 + 200 numbers of 4 bytes live together; when the first goes, 800 bytes stay. A view is nothing new."""
    with Ledger() as ledger:
        first = torch.empty(100)
        second = torch.empty(200)
        view = second[10:]
        del first
        assert ledger.live == 800 and ledger.peak == 1200
        assert view.numel() == 190
    del second, view
    assert ledger.live == 0


def test_nothing_of_a_70b_model_is_allocated() -> None:
    """131 GiB of weights are planned while no tensor of the model, its adapters or a layer's pass holds a number."""
    config = preset("llama-70b")
    config.num_hidden_layers = 2
    shadow = shadow_of(built(config, "llama-70b"), [METHODS["lora"].config(method="lora")],
                       Numbers(torch.bfloat16, torch.bfloat16))  # fmt: skip
    found = footprint(shadow, pack(), supervised_terms())
    assert all(p.untyped_storage().device.type == "meta" for p in shadow.model.parameters())
    # two layers of 2 D^2 + 2 D K + 3 D F with D = 8,192, K = 1,024, F = 28,672; two tables of 128,256 D; five norms
    width, inner, keys, rows = 8192, 28672, 1024, 128256
    numbers = 2 * (2 * width**2 + 2 * width * keys + 3 * width * inner) + 2 * rows * width + 5 * width
    rotary = sum(b.nbytes for b in shadow.model.buffers())
    assert found.weights == 2 * numbers + rotary


@pytest.mark.parametrize("method", ["lora", "full", "bottleneck"])
def test_gradients_and_moments_are_those_of_a_real_run(method: str) -> None:
    """The bytes of a real model's gradients, and of a real AdamW's state after one step, to the byte."""
    from burnish.adapters.attach import attach
    from burnish.objectives.context import ModelContext

    found, _ = traced(method)
    model = tiny("llama")
    model.requires_grad_(False)
    attached = attach(model, METHODS[method].config(method=method))
    named = attached.trainable()
    ModelContext(model).token_losses(pack()).sum().backward()  # type: ignore[no-untyped-call]
    optimizer = build_optimizer(named, OptimConfig(), 1e-3)
    optimizer.step()
    assert found.gradients == sum(p.grad.nbytes for _, p in named if p.grad is not None)
    assert found.optimizer == sum(t.nbytes for state in optimizer.state.values() for t in state.values())
    assert found.trained == sum(p.numel() for _, p in named)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_those_of_the_real_model(method: str, checkpointing: bool) -> None:
    """The same ledger over the same pass of a real model counts the same bytes, but for a random state of 508."""
    from burnish.adapters.attach import attach
    from burnish.adapters.lora import projection_of
    from burnish.models.fuse import fuse
    from burnish.models.recompute import checkpoint_activations
    from burnish.objectives.context import ModelContext

    found, _ = traced(method, checkpointing=checkpointing)
    model: PreTrainedModel = tiny("llama")
    model.requires_grad_(False)
    attach(model, METHODS[method].config(method=method))
    fuse(model, projection_of)
    if checkpointing:
        checkpoint_activations(model)
    model.train()
    context = ModelContext(model)
    context.head()
    ledger = Ledger()
    ledger.ignore([*model.parameters(), *model.buffers()])
    with ledger:
        loss = context.token_losses(pack()).sum()
        kept = ledger.live
        loss.backward()  # type: ignore[no-untyped-call]
    assert found.activations == pytest.approx(kept, abs=600)
    assert found.activations + found.working == pytest.approx(ledger.peak, abs=600)


def test_gradients_of_an_earlier_micro_batch_are_counted() -> None:
    """Full tuning: the second micro-batch meets 4 bytes for each number, and makes its own gradients beside them."""
    shapes = built(tiny("llama").config, "llama")
    shadow = shadow_of(shapes, [METHODS["full"].config(method="full")], FP32)
    first = footprint(shadow, pack(), supervised_terms())
    second = footprint(shadow, pack(), supervised_terms(), accumulates=True)
    assert second.activations == first.activations
    largest = max(4 * p.numel() for _, p in shadow.trainable)
    assert second.activations + second.working >= second.gradients + first.activations
    assert 0 < second.working - first.working <= second.gradients
    assert second.working >= second.gradients + largest  # a tied table's gradient comes in two pieces


def test_weights_of_4_bits_are_those_of_a_quantised_model() -> None:
    """Codes, constants with their tables, and what stays: to the byte."""
    pytest.importorskip("bitsandbytes")
    config = LlamaConfig(**{**tiny("llama").config.to_dict(), "hidden_size": 64, "intermediate_size": 128})
    real = built(config, "llama")
    real = type(real)(config)
    quantize_(real, QuantizationConfig(), torch.float32)
    parts = bytes_by_part(real)
    shadow = shadow_of(
        built(config, "llama"), [METHODS["lora"].config(method="lora")], FP32, quantization=QuantizationConfig()
    )
    buffers = sum(b.nbytes for b in real.buffers())
    assert shadow.stored == parts["total"] + buffers
    weights = [p for n, p in shadow.model.named_parameters() if getattr(p, "quant_state", None) is not None]
    assert sum(p.nbytes for p in weights) == parts["weights"]


@pytest.mark.parametrize(
    ("numbers", "kind", "expected"),
    [
        (10_000, "adamw", 80_004),
        (10_000, "adamw_8bit", 2 * 10_000 + 2 * 4 * 40),  # 40 blocks of 256
        (1_000, "adamw_8bit", 8_000),
    ],
)
def test_bytes_of_moments(numbers: int, kind: Any, expected: int) -> None:
    """Two moments of 4 bytes and a count; or of one byte, with a scale for each block of 256."""
    assert optimizer_bytes(numbers, kind) == expected


def test_8_bit_moments_are_those_of_the_library() -> None:
    """The state of a real 8-bit AdamW after one step, but for its tables of 256 values and its counts."""
    bnb = pytest.importorskip("bitsandbytes")
    parameter = torch.nn.Parameter(torch.ones(100, 50))
    optimizer = bnb.optim.AdamW8bit([parameter], lr=1e-3)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = {k: v for k, v in optimizer.state[parameter].items() if isinstance(v, torch.Tensor)}
    assert optimizer_bytes(5_000, "adamw_8bit") == sum(v.nbytes for k, v in state.items() if "qmap" not in k)


@pytest.mark.parametrize(
    ("name", "device", "gathered"),
    [
        # weights, adapters, gradients, moments of one of four devices
        ("none", (1000, 100, 100, 200), 0),
        ("ddp", (1000, 100, 200, 200), 0),
        ("zero1", (1000, 100, 100, 50), 0),
        ("zero2", (1000, 100, 25, 50), 0),
        ("zero3", (250, 25, 25, 50), 80),
        ("fsdp2", (250, 25, 25, 50), 80),
    ],
)
def test_engines_divide(name: Any, device: tuple[int, ...], gathered: int) -> None:
    """1,000 bytes of weights, 100 of adapters and gradients, 200 of moments among four; two layers of 40 gathered."""
    share = share_of(WHOLE, Engine(name, 1 if name == "none" else 4))
    one = share.device
    assert (one.weights, one.adapters, one.gradients, one.optimizer) == device
    assert share.gathered == gathered


def test_offloading_moves_bytes_to_the_host() -> None:
    """Of ZeRO-2 the host gets 4 * 50 of moments and 4 * 25 of gradients; of ZeRO-3 4 * 275 of weights too."""
    moments = share_of(WHOLE, Engine("zero2", 4, "optimizer"))
    assert (moments.device.optimizer, moments.host) == (0, 300)
    everything = share_of(WHOLE, Engine("zero3", 4, "parameters"))
    assert (everything.device.weights, everything.device.adapters, everything.host) == (0, 0, 300 + 1100)


@pytest.mark.parametrize("wrong", [("none", 2, "none"), ("ddp", 2, "optimizer"), ("zero2", 2, "parameters")])
def test_contradictions_of_engines_are_refused(wrong: Any) -> None:
    """Several processes without an engine, and offload where nothing is divided."""
    with pytest.raises(UserError):
        Engine(*wrong)


def test_layers_on_a_line() -> None:
    """A part of 10 + 3 a layer is 16 at two layers and 22 at four, so 250 at eighty."""
    two, four = (Footprint(*([10 + 3 * n] * 11)) for n in (2, 4))
    assert two.scaled_between(four, (2, 4), 80).weights == 250


def test_the_highest_phase_decides() -> None:
    """1,000 + 100 + 200 + 50 + 130 and a framework of 7 with 5: forward and backward; it fits 1,600 and not 1,500."""
    plan = memory_plan(WHOLE, Overhead(start=7, computing=5))
    assert plan.highest.name == "forward and backward" and plan.peak == 1492
    assert plan.fits(1600) and not plan.fits(1500)


def test_a_ledger_knows_products_by_shape() -> None:
    """Two shapes in bf16, one of them twice; fp32 has no prepared code and counts for nothing."""
    a, b = torch.ones(4, 6, dtype=torch.bfloat16), torch.ones(6, 3, dtype=torch.bfloat16)
    with Ledger() as ledger:
        _ = a @ b, a @ b, a[:2] @ b, a.float() @ b.float()
    assert len(ledger.products) == 2


def test_prepared_products_come_with_every_number_of_rows() -> None:
    """3 kinds of products in 4 lengths are 12 of 10 bytes, where 256 are kept; of 100 lengths 256 are. They are there
    from the first product on, and not while the model is loaded."""
    some = replace(WHOLE, products=3)
    four = memory_plan(some, Overhead(0, product=10, most_products=256, lengths=4))
    first, *others = four.phases
    assert first.name == "load" and "prepared products" not in first.parts
    assert {phase.parts["prepared products"] for phase in others} == {120}
    many = memory_plan(some, Overhead(0, product=10, most_products=256, lengths=100))
    assert many.highest.parts["prepared products"] == 2560
    assert share_of(some, Engine("zero3", 4)).device.products == 3  # each process prepares its own


def test_cards_and_shapes_are_known_by_name() -> None:
    """A name in any spelling; a stranger is refused with a suggestion; every shape can be built."""
    assert card_of("rtx-4090").gib == 24 and list(CARDS) == sorted(CARDS, key=lambda c: c.gib)
    with pytest.raises(UserError, match="RTX 4091"):
        card_of("RTX 4091")
    with pytest.raises(UserError):
        preset("llama-9b")
    assert all(preset(name).model_type for name in presets())
