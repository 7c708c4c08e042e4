"""Classification by likelihood: the model scores every possible answer, so none is unparseable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.core.errors import UserError
from burnish.data.example import Example
from burnish.data.render import Rendered, Renderer
from burnish.data.table import TokenTable
from burnish.evaluate.loss import Progress, RowLosses, View, passes, row_losses

Scores = NDArray[np.float64]
HEAD_ROWS = 64
"""Rows whose logits exist at a time: 64 x 50,000 x 4 bytes are 13 MB."""


@dataclass(frozen=True)
class Question:
    """The possible answers to one row, as tokens.

    Attributes:
        prompt: What all answers have in common before they part.
        answers: What is scored of each: the tokens between the common beginning and the common end.
        true: Number of the true answer.
        task: The row's task.
    """

    prompt: list[int]
    answers: list[list[int]]
    true: int
    task: str | None = None


def true_choices(examples: Sequence[Example], choices: Sequence[str]) -> list[int]:
    """The class of every row: the choice that its target equals, but for white space around it.

    Raises:
        UserError: A target is none of the choices; all such values are named.
    """
    places = {choice: i for i, choice in enumerate(choices)}
    unknown = [e for e in examples if e.target_text.strip() not in places]
    if unknown:
        values = sorted({e.target_text.strip()[:40] for e in unknown})
        raise UserError(
            f"{len(unknown)} rows have a target that is none of `evaluate.choices`, such as `{values[0]}`",
            where=unknown[0].id,
            fix="add it to `evaluate.choices`, or mend these rows",
        )
    return [places[e.target_text.strip()] for e in examples]


def questions(examples: Sequence[Example], choices: Sequence[str], renderer: Renderer) -> list[Question]:
    """Every row with every choice in place of its target, rendered as in training.

    What all answers begin and end with (the prompt, the end token) does not tell them apart and is not scored, unless
    one answer would then be empty: `yes` and `yes!` part only at their end, which is scored for them.
    """
    true = true_choices(examples, choices)
    variants = [with_target(e, choice) for e in examples for choice in choices]
    rendered = renderer.render_all(variants)
    bad = next((v.id for v, r in zip(variants, rendered, strict=True) if not isinstance(r, Rendered)), None)
    if bad is not None:
        raise UserError("a row cannot be rendered with every choice", where=bad, fix="raise `data.render.max_length`")
    rows = [r for r in rendered if isinstance(r, Rendered)]
    k = len(choices)
    asked = [_question(rows[i * k : (i + 1) * k], true[i]) for i in range(len(examples))]
    return [replace(q, task=e.task) if e.task is not None else q for q, e in zip(asked, examples, strict=True)]


def with_target(example: Example, choice: str) -> Example:
    """The example with another target, with the white space that the true one has before it."""
    target = example.target_text
    text = target[: len(target) - len(target.lstrip())] + choice
    if example.messages is None:
        return replace(example, completion=text)
    place = example.last_target
    assert place is not None  # a row without a target was dropped long before
    turns = [{**m, "content": text} if i == place else m for i, m in enumerate(example.messages)]
    return replace(example, messages=tuple(turns))


def _question(rendered: list[Rendered], true: int) -> Question:
    if rendered[0].target_ids:  # an encoder-decoder: the prompt is apart from the answers
        return Question(rendered[0].input_ids, [r.target_ids for r in rendered], true)
    rows = [r.input_ids for r in rendered]
    start = _common(rows)
    tails = [row[start:] for row in rows]
    end = _common([tail[::-1] for tail in tails])
    answers = [tail[: len(tail) - end] for tail in tails]
    if not all(answers):
        answers = tails
    return Question(prompt=rows[0][:start], answers=answers, true=true)


def _common(rows: list[list[int]]) -> int:
    """How many tokens all rows have in common at their beginning; at least one is left to each."""
    shortest = min(len(row) for row in rows)
    same = takewhile(lambda i: len({row[i] for row in rows}) == 1, range(shortest))
    return sum(1 for _ in same)


def score_rows(
    view: View, table: TokenTable, asked: Sequence[Question], progress: Progress | None = None
) -> tuple[RowLosses, Scores]:
    """Loss of every row and log-likelihood of every answer to it.

    The scores, [N, K] in nats, are ``log p(answer | prompt)`` summed over the answer's tokens. They are not divided by
    length: they are the model's own probabilities of the texts. Where every answer is a single token, the pass that
    gives the loss gives them all.

    Args:
        view: The model.
        table: The rows with their true answers.
        asked: The same rows as questions; may be empty.
        progress: Told how many of ``work(table, asked)`` units are done.
    """
    if asked and one_pass_is_enough(view, table, asked):
        return _one_pass(view, table, asked, progress)
    losses = row_losses(view, table, progress)
    if not asked:
        return losses, np.zeros((0, 0))
    later = (lambda done: progress(len(table) + done)) if progress else None
    return losses, _pass_each(view, asked, later)


def work(view: View, table: TokenTable, asked: Sequence[Question]) -> int:
    """Units of progress that ``score_rows`` reports."""
    return len(table) if one_pass_is_enough(view, table, asked) else len(table) + len(asked)


def one_pass_is_enough(view: View, table: TokenTable, asked: Sequence[Question]) -> bool:
    """Whether every answer is one token and stands, in the rows themselves, right behind its prompt."""
    if view.loaded.kind != "causal":
        return False
    return all(
        all(len(answer) == 1 for answer in q.answers)
        and table.row(i)[0][: len(q.prompt) + 1].tolist() == q.prompt + q.answers[q.true]
        for i, q in enumerate(asked)
    )


def _one_pass(
    view: View, table: TokenTable, asked: Sequence[Question], progress: Progress | None
) -> tuple[RowLosses, Scores]:
    tokens_NK = torch.tensor([[a[0] for a in q.answers] for q in asked])
    losses, scores = RowLosses.empty(len(table)), np.zeros(tuple(tokens_NK.shape))
    for one in passes(view, table, progress):
        losses.add(one)
        places = one.starts + torch.tensor([len(asked[row].prompt) - 1 for row in one.rows])
        hidden = one.hidden.flatten(0, 1)[places.to(one.hidden.device)]
        for start in range(0, len(one.rows), HEAD_ROWS):
            chosen = one.rows[start : start + HEAD_ROWS]
            logs = torch.log_softmax(one.head(hidden[start : start + HEAD_ROWS]).float(), dim=-1).cpu()
            scores[chosen] = logs.gather(1, tokens_NK[chosen]).double().numpy()
    return losses.over_all(view), view.deal.added(scores)


def _pass_each(view: View, asked: Sequence[Question], progress: Progress | None) -> Scores:
    width = len(asked[0].answers)
    build = _pair if view.loaded.kind == "seq2seq" else _row
    rows = [build(q.prompt, answer) for q in asked for answer in q.answers]
    tasks = [q.task for q in asked for _ in q.answers]
    names = tuple(sorted({task for task in tasks if task is not None}))
    table = TokenTable.build([str(i) for i in range(len(rows))], rows, tasks, names)
    report = (lambda done: progress(done // width)) if progress else None
    return -row_losses(view, table, report).totals.reshape(len(asked), width)


def _row(prompt: list[int], answer: list[int]) -> Rendered:
    ids = prompt + answer
    return Rendered(ids, [False] * len(prompt) + [True] * len(answer), prompt, [], len(ids))


def _pair(prompt: list[int], answer: list[int]) -> Rendered:
    return Rendered(prompt, [False] * len(prompt), prompt, answer, len(prompt) + len(answer))
