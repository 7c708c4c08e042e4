"""How an update is cut never changes its gradient. Rows of unequal length, so that a mean of means would show."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from burnish.core.errors import UserError
from burnish.data.batches import BatchConfig, Layout, collate, epoch_order
from burnish.data.render import Rendered
from burnish.data.table import TokenTable
from burnish.models.attention import use_packed_attention
from burnish.models.head import head_of
from burnish.objectives.context import ModelContext
from burnish.objectives.sft import supervised_terms
from burnish.optim.config import OptimConfig
from burnish.train.job import Job
from burnish.train.loop import backward
from burnish.train.precision import choose_precision
from burnish.train.stages import Stages
from burnish.train.updates import Updates
from tests.support.tiny import tiny

CPU = torch.device("cpu")
LENGTHS = (5, 31, 9, 14, 7, 22, 12, 3)


def table(lengths: tuple[int, ...] = LENGTHS) -> TokenTable:
    """Random rows; the last third of each is its target, so rows carry 1 to 10 trained tokens."""
    generator = np.random.default_rng(0)
    rows = []
    for n in lengths:
        ids, target = generator.integers(4, 300, n).tolist(), max(1, n // 3)
        rows.append(Rendered(ids, [False] * (n - target) + [True] * target, ids[:-target], [], n))
    return TokenTable.build([str(i) for i in range(len(rows))], rows)


def updates(layout: Layout, accumulation: int | None = None, **settings: Any) -> Updates:
    rows = table()
    settings = {"batches": BatchConfig(layout=layout, micro_batch_tokens=10_000), "batch_size": 8, **settings}
    return Updates(
        rows.lengths,
        seed=0,
        layout=layout,
        collate=partial(collate, rows, layout=layout, pad_id=0, decoder_start_id=None),
        accumulation=accumulation,
        **settings,
    )


def gradients(model: PreTrainedModel, cut: Updates) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first update, through the loop's own code."""
    model.zero_grad(set_to_none=True)
    head = head_of(model)
    job = Job(
        model=model,
        terms=supervised_terms(),
        updates=cut,
        optimizer=torch.optim.SGD(model.parameters()),
        stages=Stages.single((), OptimConfig(), (0.0, ""), len(cut)),
        trainable=list(model.named_parameters()),
        context=lambda: ModelContext(model, head),
        precision=choose_precision("fp32", CPU, trains_base=True),
        evaluate=dict,
        save=lambda state: pytest.fail("not asked to save"),
    )
    batches = cut[0]
    counts = {term.name: sum(float(term.count(batch)) for batch in batches) for term in job.terms}
    loss = sum(backward(job, batch, counts) for batch in batches)
    return loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def oracle(model: PreTrainedModel) -> tuple[float, dict[str, torch.Tensor]]:
    """Each row alone through the model's own forward; losses summed, divided once by the number of trained tokens."""
    model.zero_grad(set_to_none=True)
    rows, total, count = table(), torch.zeros(()), 0
    for i in range(len(rows)):
        ids, trained = (torch.as_tensor(np.asarray(part)).long() for part in rows.row(i))
        labels = torch.where(trained.bool(), ids, -100)
        kept = int((labels[1:] != -100).sum())
        total = total + model(input_ids=ids[None], labels=labels[None]).loss * kept
        count += kept
    (total / count).backward()
    return float(total.detach() / count), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("layout", ["padded", "bucketed", "packed"])
@pytest.mark.parametrize("accumulation", [1, 2, 4, 8])
def test_cuts_give_equal_gradients(name: str, layout: Layout, accumulation: int) -> None:
    """8 x 1, 4 x 2, 2 x 4 and 1 x 8, padded, bucketed or packed: the gradient of `transformers`, row by row, to 1e-5.

    The rows carry 1, 10, 3, 4, 2, 7, 4 and 1 trained tokens. Mean of the micro-batches' means would weigh the token of
    the shortest row ten times as much as those of the longest.
    """
    model = tiny(name)
    expected_loss, expected = oracle(model)
    use_packed_attention(model)
    cut = updates(layout, accumulation)
    assert len(cut[0]) == accumulation
    loss, found = gradients(model, cut)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, atol=1e-5, rtol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_token_budget_cuts_without_changing_the_gradient() -> None:
    """A budget of 40 tokens needs at least ceil(103 / 40) = 3 packs; loss and gradient stay those of one pack."""
    model = tiny("llama")
    use_packed_attention(model)
    whole_loss, whole = gradients(model, updates("packed"))
    small = updates("packed", batches=BatchConfig(layout="packed", micro_batch_tokens=40))
    assert len(small[0]) >= 3 and all(b["input_ids"].numel() <= 40 for b in small[0])
    loss, found = gradients(model, small)
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    for key, gradient in whole.items():
        torch.testing.assert_close(found[key], gradient, atol=1e-5, rtol=1e-5)


def test_every_row_once_per_epoch_and_another_order_in_the_next() -> None:
    """Eight rows in updates of 3: 3 + 3 + 2 per epoch, two epochs are 6 updates, each epoch holds 0..7 once."""
    cut = updates("packed", batch_size=3, num_epochs=2)
    assert len(cut) == 6 and [len(cut.rows(s)) for s in range(6)] == [3, 3, 2, 3, 3, 2]
    first, second = (np.concatenate([cut.rows(s) for s in part]).tolist() for part in (range(3), range(3, 6)))
    assert first == epoch_order(8, seed=0, epoch=0).tolist() and second == epoch_order(8, seed=0, epoch=1).tolist()
    assert sorted(first) == sorted(second) == list(range(8)) and first != second
    assert cut.rows(4).tolist() == updates("padded", batch_size=3, num_epochs=2).rows(4).tolist()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=40),
    st.integers(1, 9),
    st.sampled_from(["padded", "bucketed", "packed"]),
)
def test_the_heaviest_micro_batch_is_of_the_heaviest_update(lengths: list[int], size: int, layout: Layout) -> None:
    """Oracle: every update cut, one by one; the place with the most tokens among the two updates that can hold it."""
    found: list[list[int]] = []
    made = Updates(
        np.asarray(lengths),
        size,
        seed=1,
        batches=BatchConfig(layout=layout, micro_batch_tokens=50),
        layout=layout,
        collate=lambda rows: found.append(list(rows)),  # type: ignore[arg-type, return-value]
        max_steps=3,
    )
    made.heaviest()
    steps = range(min(3, made.steps_per_epoch))
    weights = [sum(lengths[r] for r in made.rows(step)) for step in steps]
    widths = [max(lengths[r] for r in made.rows(step)) for step in steps]
    cuts = [cut for step in {weights.index(max(weights)), widths.index(max(widths))} for cut in made.cut(step)]

    def places(rows: list[int]) -> tuple[int, int]:
        own = [lengths[r] for r in rows]
        return (sum(own) if layout == "packed" else len(own) * max(own), max(own))

    assert places(found[-1]) == max(map(places, cuts))


def test_sizes_of_micro_batches() -> None:
    """In updates of two rows each, in the order of the rows: 36, 23, 29 and 15 tokens, which are 2, 1, 1 and 1 times
    32 places or less; padded 62, 28, 44 and 24, of which the first and the third need two."""
    packed = updates("packed", batch_size=2, shuffle=False)
    assert [int(sum(packed.lengths[packed.rows(step)])) for step in range(4)] == [36, 23, 29, 15]
    assert packed.sizes(32) == 2 and packed.sizes(1) == 4 and packed.sizes(1, looked_at=1) == 1
    assert updates("padded", batch_size=2, shuffle=False).sizes(32) == 2


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 3), (0.5, 2), (1.01, 4), (2, 6)])
def test_fractions_of_an_epoch(epochs: float, steps: int) -> None:
    """Three updates an epoch: ceil(3 * 0.5) = 2, ceil(3.03) = 4."""
    assert len(updates("padded", batch_size=3, num_epochs=epochs)) == steps


def test_more_micro_batches_than_rows_is_refused() -> None:
    with pytest.raises(UserError, match="9 micro-batches cannot be cut from 8 rows"):
        updates("padded", 9)
