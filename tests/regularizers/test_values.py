"""Each regularizer against arithmetic that writes out what it never builds: updates, logits, a second model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.adapters.lora_layers import LowRank
from burnish.models.forward import hidden_states
from burnish.models.head import head_of
from burnish.regularizers.base import Matrix, Subject
from burnish.regularizers.ewc import EWCConfig, estimate
from burnish.regularizers.general import General
from burnish.regularizers.o_lora import OLoraConfig
from burnish.regularizers.registry import REGULARIZERS
from burnish.train.regularizing import subject_of
from burnish.train.setup import Setup
from tests.regularizers.common import job_of, made, shake

LORA = {"method": "lora", "rank": 4}
UPDATES: dict[str, Any] = {
    "lora": LORA,
    "fused": {**LORA, "fused_parts": ["q", "v"]},
    "pissa": {**LORA, "init": "pissa"},
    "adalora": {"method": "adalora", "rank": 4, "target_rank": 2},
    "vera": {"method": "vera", "rank": 8},
    "embedding": {**LORA, "targets": ["attention", "embedding"]},
}


def term_of(setup: Setup, name: str) -> Any:
    return next(term for term in setup.regularizing.terms if term.name == name)


def written_out(setup: Setup) -> list[Tensor]:
    """Every update [D_out, D_in] in float64, with gradients to what it is made of."""
    found = []
    for item in setup.attached.placed:
        assert isinstance(item.adapter, LowRank)
        A, B = item.adapter.factors()
        found.append(item.adapter.scale * (B.double() @ A.double()))
    return found


def assert_alike(found: Tensor, expected: Tensor, setup: Setup, tolerance: float = 1e-5) -> None:
    """Values, and gradients of everything that is trained, relative to the largest number."""
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=tolerance)
    wanted = [p for _, p in setup.attached.trainable()]
    pairs = zip(
        *(torch.autograd.grad(v, wanted, retain_graph=True, allow_unused=True) for v in (found, expected)), strict=True
    )
    for ours, theirs in pairs:
        assert ours is not None and theirs is not None
        scale = float(theirs.abs().max()) or 1.0
        torch.testing.assert_close(ours.double() / scale, theirs.double() / scale, rtol=0, atol=tolerance)


def assert_term(name: str, expected: Tensor, setup: Setup, tolerance: float = 1e-5) -> None:
    """The loss with its gradient; and the closed form, which adds seven times the gradient to a gradient of ones."""
    term = term_of(setup, name)
    assert_alike(term.loss({}, None).total, expected, setup, tolerance)
    wanted = [p for _, p in setup.attached.trainable()]
    for p in wanted:
        p.grad = torch.ones_like(p)
    assert float(term.descend(7.0)) == pytest.approx(float(expected.detach()), rel=tolerance)
    for p, gradient in zip(wanted, torch.autograd.grad(expected, wanted, allow_unused=True), strict=True):
        assert p.grad is not None and gradient is not None
        scale = float(gradient.abs().max()) or 1.0
        torch.testing.assert_close(
            (p.grad.double() - 1) / (7 * scale), gradient.double() / scale, rtol=0, atol=tolerance + 1e-6 / scale
        )


@pytest.mark.parametrize("kind", UPDATES)
def test_l2_sp_of_updates(kind: str) -> None:
    """``sum ||s B A||^2`` with the products written out, of every method with a low-rank update and start."""
    setup = made("gpt2" if kind == "fused" else "llama", UPDATES[kind], ["l2_sp"])
    shake(setup)
    expected = torch.stack([update.square().sum() for update in written_out(setup)]).sum()
    assert_term("l2_sp", expected, setup)


@pytest.mark.parametrize("adapter", ["full", {"method": "bottleneck"}, {"method": "prefix"}, {**LORA, "dora": True}])
def test_l2_sp_of_tensors(adapter: Any) -> None:
    """``sum (w - w_0)^2`` over all that is trained, in float64."""
    setup = made("llama", adapter, ["l2_sp"])
    before = [p.detach().double().clone() for _, p in setup.attached.trainable()]
    shake(setup)
    moved = [p.double() - w for (_, p), w in zip(setup.attached.trainable(), before, strict=True)]
    expected = torch.stack([m.square().sum() for m in moved]).sum()
    assert_term("l2_sp", expected, setup)


def test_a_new_head_is_left_free() -> None:
    setup = made("bert", LORA, ["l2_sp"])
    shake(setup)
    total = term_of(setup, "l2_sp").loss({}, None).total
    head = [p for name, p in setup.trainable if name.startswith("classifier.")]
    assert head and all(g is None for g in torch.autograd.grad(total, head, allow_unused=True))


def fisher_by_hand(setup: Setup, names: list[str], rows: int) -> dict[str, Tensor]:
    """Squared gradients of the log-likelihood of whole rows over the number of tokens, from logits in float64."""
    model = copy.deepcopy(setup.loaded.model).double().requires_grad_(True).eval()
    general = setup.regularizing_rows  # type: ignore[attr-defined]
    weights = {name: model.get_parameter(name) for name in names}
    sums, tokens = {name: torch.zeros_like(w) for name, w in weights.items()}, 0
    for batch in general.singly(rows):
        ids = batch["input_ids"][0]
        log_probs = torch.log_softmax(model(input_ids=ids[None], use_cache=False).logits[0, :-1], -1)
        likelihood = log_probs.gather(1, ids[1:, None]).sum()
        for name, gradient in zip(names, torch.autograd.grad(likelihood, list(weights.values())), strict=True):
            sums[name] += gradient.square()
        tokens += len(ids) - 1
    return {name: s / tokens for name, s in sums.items()}


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_ewc(adapter: str, factored: bool) -> None:
    """``sum F (w - w_0)^2 / 2`` and its gradient, F from float64 gradients of the texts' own words.

    Factored: ``F_ij = r_i c_j / mean(r)`` with r and c the means over rows and columns; whole for what is no update.
    """
    entry = {"kind": "ewc", "labels": "data", "samples": 3, "max_length": 20}
    setup = made(
        "llama", LORA if adapter == "lora" else "full", [{**entry, "fisher": "factored" if factored else "diagonal"}]
    )
    object.__setattr__(
        setup, "regularizing_rows", General.read(None, subject_of(setup), source="ewc", rows=1, max_length=20)
    )
    if adapter == "lora":
        hosts = [item.site.name + ".weight" for item in setup.attached.placed]
        fisher = list(fisher_by_hand(setup, hosts, 3).values())
        if factored:
            fisher = [torch.outer(f.mean(1), f.mean(0)) / f.mean() for f in fisher]
        shake(setup)
        moved = written_out(setup)
    else:
        trained = setup.attached.trainable()
        fisher = list(fisher_by_hand(setup, [name for name, _ in trained], 3).values())
        before = [p.detach().double().clone() for _, p in trained]
        shake(setup)
        moved = [p.double() - w for (_, p), w in zip(trained, before, strict=True)]
    expected = torch.stack([(f * m.square()).sum() for f, m in zip(fisher, moved, strict=True)]).sum() / 2
    assert_term("ewc", expected, setup, 1e-4)


def test_sampled_words_estimate_the_same_information_as_all_words_weighed() -> None:
    """The mean over draws of the squared gradient of a whole text is ``sum_t sum_y p(y) (d log p(y) / dw)^2``.

    One text of 3 tokens and the norm before the head, so that the sum over 384 words is exact by hand; the noise of 400
    draws in the sum of all numbers is a few percent.
    """
    entry = {"kind": "ewc", "samples": 1, "max_length": 3}
    setup = made("llama", {"method": "full", "targets": ["model.norm"]}, [entry])
    subject = subject_of(setup)
    general = General.read(None, subject, source="ewc", rows=1, max_length=3)
    general = General(general.table.head(1), "ewc", subject, 1)
    model, weight = setup.loaded.model, setup.loaded.model.get_parameter("model.norm.weight")
    ids = next(general.singly(1))["input_ids"]
    logits, normed = (
        model(input_ids=ids, use_cache=False).logits[0].double(),
        hidden_states(model, {"input_ids": ids})[0],
    )
    p, rows = torch.softmax(logits, -1), head_of(model).weight.double()
    by_word = rows[None] - (p @ rows)[:, None]  # d log p(y) / d hidden, [T, V, D]
    exact = (p[..., None] * ((normed / weight).double()[:, None] * by_word).square()).sum((0, 1)).detach()
    found = estimate(EWCConfig(samples=400), subject, general, False).tensors[0]
    assert float(found.sum()) == pytest.approx(float(exact.sum()) / len(p), rel=0.1)


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
@pytest.mark.parametrize(
    ("model", "adapter"),
    [
        ("llama", {**LORA, "dropout": 0.3}),
        ("llama", {**LORA, "targets": ["attention", "head"]}),
        ("t5", LORA),
        ("gpt2", {"method": "prefix"}),
        ("llama", "full"),
    ],
    ids=["lora", "adapter on the head", "t5", "prefix", "full"],
)
def test_distillation_from_a_second_model(model: str, adapter: Any, divergence: str) -> None:
    """Against ``kl_div`` on full logits of a deep copy that was made before anything moved.

    Dropout of base and adapters is on: ours has the masks of the shared forward pass, theirs none.
    """
    entry = {"kind": "distill", "on": "task", "divergence": divergence, "temperature": 2.0, "positions": "all"}
    setup = made(model, adapter, [entry])
    for module in setup.loaded.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    second = copy.deepcopy(setup.loaded.model).eval()
    if not setup.attached.trains_base:
        second.burnish_attachments.switch.active = ()  # type: ignore[union-attr]
    shake(setup)
    job = job_of(setup)
    batch, context, term = job.updates[0][0], job.context(), term_of(setup, "distill")
    found = term.loss(batch, context).total
    assert setup.loaded.model.training
    head = context.head()
    mask = batch.get("decoder_attention_mask", batch.get("attention_mask"))
    chosen = torch.ones(batch["input_ids"].shape, dtype=torch.bool) if mask is None else mask.bool()
    ours = torch.log_softmax(head(context.hidden(batch)[chosen]).double() / 2, -1)
    with torch.no_grad():
        theirs = torch.log_softmax(head_of(second)(hidden_states(second, batch)[chosen]).double() / 2, -1)
    pair = (ours, theirs) if divergence == "forward" else (theirs, ours)
    expected = 4 * F.kl_div(*pair, reduction="sum", log_target=True)
    assert float(term.count(batch)) == len(ours)
    assert_alike(found, expected, setup, 1e-4)


@pytest.mark.parametrize("how", ["mean", "cls"])
@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_with_a_new_head_its_vectors_are_compared(how: str, distance: str) -> None:
    """A deep copy's hidden states, pooled by hand."""
    task = {"kind": "classification", "pooling": how}
    setup = made(
        "bert", LORA, [{"kind": "distill", "on": "task", "distance": distance}], task=task, batches={"layout": "padded"}
    )
    second = copy.deepcopy(setup.loaded.model).eval()
    second.burnish_attachments.switch.active = ()  # type: ignore[union-attr]
    shake(setup)
    job = job_of(setup)
    batch = job.updates[0][0]
    term = term_of(setup, "distill")
    found = term.loss(batch, job.context()).total

    def pooled(model: Any) -> Tensor:
        states, mask = hidden_states(model, batch), batch["attention_mask"][..., None]
        return states[:, 0] if how == "cls" else (states * mask).sum(1) / mask.sum(1)

    ours, theirs = pooled(setup.loaded.model), pooled(second)
    by_hand = {"mse": (ours - theirs).square().mean(1), "cosine": 1 - F.cosine_similarity(ours, theirs)}[distance]
    assert float(term.count(batch)) == len(by_hand)
    assert float(found.detach()) == pytest.approx(float(by_hand.detach().sum()), rel=1e-4)


def test_o_lora_by_hand() -> None:
    """``sum |A' A^T|`` of one matrix: A' = [1, 2], A = [[3, 0], [-1, 1]] gives |3| + |-1 + 2| = 4."""
    A = torch.tensor([[3.0, 0.0], [-1.0, 1.0]], requires_grad=True)
    matrix = Matrix("q", torch.nn.Linear(2, 2), lambda: (A, torch.zeros(2, 2)), 1.0)
    subject = Subject(**dict.fromkeys(Subject.__dataclass_fields__))  # type: ignore[arg-type]
    fields = {
        "matrices": [matrix],
        "device": torch.device("cpu"),
        "earlier": lambda path: {"q": torch.tensor([[1.0, 2.0]])},
    }
    for name, value in fields.items():
        object.__setattr__(subject, name, value)
    made_of = REGULARIZERS["o_lora"].build(OLoraConfig(earlier=("run",)), subject)
    total = made_of.terms[0].loss({}, None).total  # type: ignore[arg-type]
    assert float(total.detach()) == 4.0
    torch.testing.assert_close(torch.autograd.grad(total, A)[0], torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
