"""Classification by likelihood: the model scores every possible answer, so none is unparseable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, takewhile

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.core.errors import UserError
from burnish.data.example import Example
from burnish.data.kept import Codec, JsonWriter, shelved
from burnish.data.render import Rendered, Renderer
from burnish.data.streams import CHUNK
from burnish.data.table import TokenTable
from burnish.evaluate.loss import WINDOW, Progress, RowLosses, View, passes, row_losses

Scores = NDArray[np.float64]
Numbers = NDArray[np.int64]
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


_QUESTIONS: Codec[Question] = Codec(
    lambda q: [q.prompt, q.answers, q.true, q.task], lambda values: Question(*values), exact=True
)


def true_choices(examples: Iterable[Example], choices: Sequence[str]) -> Numbers:
    """[N] the class of every row: the choice that its target equals, but for white space around it.

    Raises:
        UserError: A target is none of the choices; their number, the first such row and one such value are named.
    """
    places = {choice: i for i, choice in enumerate(choices)}
    found, unknown, first, value = list[Numbers](), 0, "", ""
    for some in in_chunks(examples):
        numbers = np.asarray([places.get(e.target_text.strip(), -1) for e in some], dtype=np.int64)
        found.append(numbers)
        for place in np.flatnonzero(numbers < 0).tolist():
            said = some[place].target_text.strip()[:40]
            first, value = (first, min(value, said)) if unknown else (some[place].id, said)
            unknown += 1
    if unknown:
        raise UserError(
            f"{unknown} rows have a target that is none of `evaluate.choices`, such as `{value}`",
            where=first,
            fix="add it to `evaluate.choices`, or mend these rows",
        )
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def in_chunks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Examples some at a time, each read once."""
    rows = iter(examples)
    while some := list(islice(rows, CHUNK)):
        yield some


def questions(
    examples: Iterable[Example], choices: Sequence[str], renderer: Renderer, true: Numbers | None = None
) -> Sequence[Question]:
    """Every row with every choice in place of its target, rendered as in training.

    What all answers begin and end with (the prompt, the end token) does not tell them apart and is not scored, unless
    one answer would then be empty: `yes` and `yes!` part only at their end, which is scored for them. Many questions
    lie on the disk.

    Args:
        examples: The rows.
        choices: The possible targets.
        renderer: What makes tokens.
        true: The number of each row's choice, where it is known.
    """
    true = true_choices(examples, choices) if true is None else true
    start = 0
    with shelved() as shelf:
        asked = JsonWriter(shelf, "question", _QUESTIONS)
        for some in in_chunks(examples):
            asked.append(_asked(some, choices, renderer, true[start : start + len(some)]))
            start += len(some)
        return asked.finish()


def _asked(
    examples: Sequence[Example], choices: Sequence[str], renderer: Renderer, true: Numbers
) -> Iterator[Question]:
    variants = [with_target(e, choice) for e in examples for choice in choices]
    rendered = renderer.render_all(variants)
    bad = next((v.id for v, r in zip(variants, rendered, strict=True) if not isinstance(r, Rendered)), None)
    if bad is not None:
        raise UserError("a row cannot be rendered with every choice", where=bad, fix="raise `data.render.max_length`")
    rows = [r for r in rendered if isinstance(r, Rendered)]
    k = len(choices)
    for i, example in enumerate(examples):
        question = _question(rows[i * k : (i + 1) * k], int(true[i]))
        yield replace(question, task=example.task) if example.task is not None else question


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
    losses, scores = RowLosses.empty(len(table)), np.zeros((len(table), len(asked[0].answers)))
    for one in passes(view, table, progress):
        losses.add(one)
        here = [asked[row] for row in one.rows]
        tokens_NK = torch.tensor([[answer[0] for answer in q.answers] for q in here])
        places = one.starts + torch.tensor([len(q.prompt) - 1 for q in here])
        hidden = one.hidden.flatten(0, 1)[places.to(one.hidden.device)]
        for start in range(0, len(one.rows), HEAD_ROWS):
            part = slice(start, start + HEAD_ROWS)
            logs = torch.log_softmax(one.head(hidden[part]).float(), dim=-1).cpu()
            scores[one.rows[part]] = logs.gather(1, tokens_NK[part]).double().numpy()
    return losses.over_all(view), view.deal.added(scores)


def _pass_each(view: View, asked: Sequence[Question], progress: Progress | None) -> Scores:
    """[N, K] a forward pass for every answer; the rows for them exist for a window of questions at a time."""
    width = len(asked[0].answers)
    build = _pair if view.loaded.kind == "seq2seq" else _row
    scores = np.zeros((len(asked), width))
    step = max(1, WINDOW // width)
    for start in range(0, len(asked), step):
        some = asked[start : start + step]
        rows = [build(q.prompt, answer) for q in some for answer in q.answers]
        tasks = [q.task for q in some for _ in q.answers]
        names = tuple(sorted({task for task in tasks if task is not None}))
        table = TokenTable.build([str(i) for i in range(len(rows))], rows, tasks, names)
        report = partial(_report, progress, start, width) if progress else None
        scores[start : start + step] = -row_losses(view, table, report).totals.reshape(len(some), width)
    return scores


def _report(progress: Progress, start: int, width: int, done: int) -> None:
    progress(start + done // width)


def _row(prompt: list[int], answer: list[int]) -> Rendered:
    ids = prompt + answer
    return Rendered(ids, [False] * len(prompt) + [True] * len(answer), prompt, [], len(ids))


def _pair(prompt: list[int], answer: list[int]) -> Rendered:
    return Rendered(prompt, [False] * len(prompt), prompt, answer, len(prompt) + len(answer))
