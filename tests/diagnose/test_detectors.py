"""Detectors on synthetic curves whose fault is known by construction, and on healthy ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from burnish.adapters.attach import attach
from burnish.adapters.registry import METHODS
from burnish.core.errors import UserError
from burnish.diagnose.detectors import DETECTORS, alarms, diagnose, first_alarms
from burnish.diagnose.moves import agreement, noise_scale
from burnish.diagnose.series import Facts, Series
from burnish.train.gradients import group_of
from tests.support.tiny import tiny

LOG2 = math.log(2)
CLASSES = Facts(total=100, chance=LOG2, uniform=LOG2, batch_size=16, max_grad_norm=1.0, rate=1e-3)
TEXT = Facts(total=100, chance=10.0, uniform=10.0, text=True, batch_size=16, max_grad_norm=1.0, rate=1e-3)


def noisy(curve: Any, spread: float = 0.03, seed: int = 0) -> np.ndarray:
    values = np.asarray(curve, dtype=float)
    return values + spread * np.random.default_rng(seed).normal(size=len(values))


def falling(n: int = 100, start: float = LOG2, end: float = 0.35) -> np.ndarray:
    return end + (start - end) * np.exp(-np.arange(n) / (n / 4))


def series(
    loss: Any,
    facts: Facts = CLASSES,
    *,
    validation: Any = (),
    per_epoch: int = 50,
    gradients: Any = (),
    norm: float = 1.0,
) -> Series:
    """A log: an update for each loss, evaluations evenly between them, measurements where they are given."""
    log: list[dict[str, Any]] = [
        {"kind": "train", "step": i + 1, "epoch": (i + 1) / per_epoch, "loss": float(x), "grad_norm": norm}
        for i, x in enumerate(loss)
    ]
    every = len(log) // max(1, len(validation))
    log += [{"kind": "validation", "step": (i + 1) * every, "loss": float(v)} for i, v in enumerate(validation)]
    log += [{"kind": "gradients", "step": i + 1, **values} for i, values in enumerate(gradients)]
    return Series.of(log, facts)


def codes(one: Series) -> set[str]:
    return {finding.code for finding in alarms(one)}


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_curve_has_no_fault(seed: int) -> None:
    validation = noisy(falling(10), 0.003, seed)
    one = series(noisy(falling(), 0.05, seed), validation=validation)
    assert codes(one) == set()
    assert {f.code for f in diagnose(one)} >= {"validation.improving"}
    assert first_alarms(one) == {}  # nor at any moment on the way


def test_every_finding_says_all_of_it() -> None:
    """What, where, why and fix, and the step since which it holds."""
    rising = series(noisy(np.linspace(LOG2, 3.0, 100)))
    for finding in alarms(rising):
        assert finding.what and finding.where and finding.why and finding.fix and "since" in finding.evidence


def test_a_loss_that_rises_and_stays() -> None:
    """From 0.69 to 3 along a line: above 1.15 of the beginning at update 5 of the line, seen within ten."""
    one = series(noisy(np.linspace(LOG2, 3.0, 100)))
    assert codes(one) == {"loss.diverged"}
    assert first_alarms(one)["loss.rate-too-high"] <= 12  # first it is only high
    finding = next(f for f in alarms(one) if f.code == "loss.diverged")
    assert "1.0e-04" in finding.fix  # a tenth of the rate


def test_updates_of_a_fifth_of_the_weights() -> None:
    gradients = [{"groups_ratio": {"weight": 0.2, "bias": 3.0}} for _ in range(8)]
    assert "loss.rate-too-high" in codes(series(noisy(falling()), gradients=gradients))
    calm = [{"groups_ratio": {"weight": 0.02, "bias": 3.0}} for _ in range(8)]  # a bias begins at zero
    assert codes(series(noisy(falling()), gradients=calm)) == set()


REFUSED = {("bitfit", "llama")}
"""Where a method has nothing to train."""


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_no_method_s_own_rate_is_called_too_high(method: str, kind: str) -> None:
    """AdamW's first updates have the size of the rate, so their ratio is the rate over the root mean square of what a
    kind of parameters begins as. It stays below a tenth for every method at its own rate, or the kind is left out."""
    model = tiny(kind) if kind != "bert" else AutoModel.from_config(tiny(kind).config)  # a root, as under a head
    try:
        attached = attach(model, METHODS[method].config(method=method))
    except UserError:
        assert (method, kind) in REFUSED
        return
    parts: dict[str, list[torch.Tensor]] = {}
    for name, parameter in attached.trainable():
        parts.setdefault(group_of(name), []).append(parameter.detach().double().flatten())
    rate = attached.learning_rate[0]
    ratios = {group: rate / max(1e-12, float(torch.cat(p).square().mean().sqrt())) for group, p in parts.items()}
    gradients = [{"groups_ratio": ratios} for _ in range(8)]
    assert "loss.rate-too-high" not in codes(series(noisy(falling()), gradients=gradients)), ratios


def test_a_loss_that_swings() -> None:
    swing = 0.6 + 0.2 * (-1.0) ** np.arange(60)
    assert "loss.oscillating" in codes(series(noisy(swing, 0.02)))


def test_a_rate_too_low_and_nothing_to_learn_are_told_apart() -> None:
    """Both stay at 0.69. Small steps make each evaluation a little better; without a pattern they go up and down."""
    still = noisy(np.full(100, LOG2))
    creeping = LOG2 - 0.001 * np.arange(1, 11)
    erratic = LOG2 + 0.02 * (-1.0) ** np.arange(10)
    assert codes(series(still, validation=creeping)) == {"loss.rate-too-low"}
    assert codes(series(still, validation=erratic)) == {"loss.not-learning"}


def test_agreeing_gradients_mean_that_it_could_go_faster() -> None:
    """A text whose loss falls by 5 % while half of each gradient is signal."""
    agreed = [{"agreement": {"product": 0.5, "square": 1.0, "before": 0.6}} for _ in range(12)]
    one = series(noisy(np.linspace(6.0, 5.7, 100)), TEXT, gradients=agreed)
    assert agreement(one) == pytest.approx(0.5)
    assert codes(one) == {"loss.rate-too-low"}


def test_spikes_name_the_rows_that_they_share() -> None:
    """Row 7 is drawn at updates 30, 60 and 90, and only there is the loss high."""
    loss = noisy(falling(start=5.0, end=1.0), 0.02)
    loss[[29, 59, 89]] += 3.0
    rows = lambda step: [7, 100 + step] if step in (30, 60, 90) else [step]  # noqa: E731
    one = series(loss, Facts(total=100, text=True, chance=10.0, rows=rows))
    finding = next(f for f in alarms(one) if f.code == "loss.spikes")
    assert finding.evidence["updates"] == [30, 60, 90] and finding.evidence["rows"] == [7]
    assert codes(one) == {"loss.spikes"}


@pytest.mark.parametrize(
    ("first", "facts", "code"),
    [
        (0.1, CLASSES, "loss.suspiciously-low"),
        (0.1, TEXT, "loss.suspiciously-low"),
        (40.0, CLASSES, "loss.suspiciously-high"),
    ],
)
def test_a_first_loss_that_cannot_be(first: float, facts: Facts, code: str) -> None:
    """A new head of two classes has 0.69, a language model something below log V, but never 1 % of it."""
    assert code in codes(series([first, first], facts))
    assert codes(series([0.7, 0.7], CLASSES)) == set()


def test_perfect_on_new_rows_is_suspicious_and_on_old_ones_is_not() -> None:
    """The same curve to zero, within the first pass and within the fourth."""
    curve = LOG2 * np.exp(-np.arange(100) / 12)
    assert codes(series(curve, per_epoch=200)) == {"loss.suspiciously-low"}
    assert codes(series(curve, per_epoch=25)) == set()


def test_overfitting_says_since_when() -> None:
    """Training goes on falling; validation turns at the fourth of ten evaluations, at step 40."""
    validation = [0.6, 0.5, 0.45, 0.42, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    one = series(noisy(falling(end=0.05)), validation=validation, per_epoch=10)
    finding = next(f for f in alarms(one) if f.code == "validation.overfitting")
    assert finding.evidence["since"] == 40 and codes(one) == {"validation.overfitting"}
    assert first_alarms(one)["validation.overfitting"] == 70  # three evaluations in a row that are worse


def test_within_the_first_pass_it_is_no_overfitting_but_another_loss() -> None:
    """Rows that are seen once cannot be known by heart: 0.1 against 2.5 is a mask or a label that differs."""
    one = series(noisy(falling(end=0.02), 0.01), validation=[0.7, 1.5, 2.0, 2.5], per_epoch=120)
    assert "validation.mismatch" in codes(one) and "validation.overfitting" not in codes(one)


def test_tensors_without_gradients() -> None:
    lines = [{"dead": 4, "tensors": 8, "dead_names": ["layer.1.lora.A"]} for _ in range(8)]
    finding = next(f for f in alarms(series(noisy(falling()), gradients=lines)) if f.code == "gradients.dead")
    assert "4 of 8" in finding.what and "layer.1.lora.A" in finding.where
    born = [{"dead": 4 if i < 1 else 0, "tensors": 8} for i in range(8)]  # LoRA's A in the first update
    assert codes(series(noisy(falling()), gradients=born)) == set()


def test_layers_that_vanish_and_explode() -> None:
    layers = [{"layers": {"0": 1e-5, "1": 0.5, "outside": 1.0}} for _ in range(8)]
    finding = next(f for f in alarms(series(noisy(falling()), gradients=layers)) if f.code == "gradients.vanishing")
    assert finding.where == "layer 0"
    loud = [{"layers": {"0": 200.0, "1": 0.5}} for _ in range(8)]
    assert codes(series(noisy(falling()), gradients=loud)) == {"gradients.exploding"}


def test_quiet_kinds_of_parameters_do_not_vanish() -> None:
    """Keys and values of prefixes have gradients of 0.004 where the head has 0.8, and learn; a thousandth of the
    loudest is a fault for them too, and 0.004 is one for weights."""
    line = {"layers": {"0": 0.004, "1": 0.005, "outside": 0.8}, "groups": {"prefix.key": 0.005, "prefix.value": 0.006}}
    assert codes(series(noisy(falling()), gradients=[line | {"groups": {**line["groups"], "head": 0.8}}] * 8)) == set()
    fainter = line | {"layers": {"0": 0.0004, "1": 0.005, "outside": 0.8}}
    assert codes(series(noisy(falling()), gradients=[fainter] * 8)) == {"gradients.vanishing"}
    weights = line | {"groups": {"prefix.key": 0.005, "lora.B": 0.005}}
    assert codes(series(noisy(falling()), gradients=[weights] * 8)) == {"gradients.vanishing"}


def test_small_gradients_of_a_loss_that_is_learnt_do_not_vanish() -> None:
    """Norms fall from 1 to 1e-3 with the loss; those of the beginning count."""
    lines = [{"layers": {"0": float(norm), "1": float(norm)}} for norm in np.logspace(0, -3, 60)]
    assert codes(series(noisy(falling()), gradients=lines)) == set()


def test_the_noise_scale_of_planted_noise() -> None:
    """|G|^2 = 4 and tr(S) = 320: an update of 16 rows has |g|^2 = 24, its first 4 rows 84, and B_simple = 80."""
    lines = [{"norm": math.sqrt(4 + 320 / 16), "first": {"square": 4 + 320 / 4, "share": 0.25}} for _ in range(6)]
    assert noise_scale(series(noisy(falling()), gradients=lines)) == pytest.approx(80.0)
    agreed = [{"agreement": {"product": 4.0, "square": 24.0, "before": 5.0}} for _ in range(12)]
    assert noise_scale(series(noisy(falling()), gradients=agreed)) == pytest.approx(80.0)


def test_a_loss_that_is_no_number() -> None:
    loss = list(falling())
    loss[50] = math.nan
    assert "loss.not-finite" in codes(series(loss))


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_short_runs_say_nothing_and_fail_nowhere(n: int) -> None:
    one = series(falling()[:n])
    assert codes(one) == set()
    assert all(list(detector(one)) is not None for detector in DETECTORS)
