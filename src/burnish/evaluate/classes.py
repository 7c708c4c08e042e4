"""A classification scored by its head: one forward pass a batch gives every row's loss and all its probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch

from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.core.types import Batch
from burnish.data.config import RenderConfig
from burnish.data.example import Example
from burnish.data.labelled import LabelledRenderer
from burnish.data.render import Rendered
from burnish.data.table import TokenTable
from burnish.evaluate.choices import Scores
from burnish.evaluate.loss import Progress, RowLosses, View, batch_tokens
from burnish.models.classifier import Classifier, class_logits
from burnish.models.forward import positions_of, supports_packing
from burnish.models.load import Loaded
from burnish.models.modes import in_evaluation
from burnish.ops.own_classes import NEVER


def logit_passes(
    view: View, table: TokenTable, progress: Progress | None = None
) -> Iterator[tuple[list[int], Batch, torch.Tensor]]:
    """What a head gives for a table: row numbers, batch and logits of every pass, without gradients or dropout.

    Args:
        view: The model with its head.
        table: The rows.
        progress: Told how many rows are done.

    Raises:
        UserError: The model has no head.
    """
    model, head, done = view.loaded.model, head_of(view.loaded), 0
    with in_evaluation(model):
        for rows, counts in view.dealt(table):
            batch = view.collate(table, rows)
            with torch.no_grad(), view.autocast():  # type: ignore[attr-defined]
                logits = class_logits(model, head, batch)
            if not counts:
                continue
            yield rows, batch, logits
            done += len(rows)
            if progress:
                progress(done)


def score_classes(view: View, table: TokenTable, progress: Progress | None = None) -> tuple[RowLosses, Scores]:
    """Loss of every row, ``-log p(class)`` in nats, and the log-probability of every class, [N, K].

    Probabilities are ``softmax(logits / T)`` with the head's temperature, 1 where none was fitted.

    Args:
        view: The model with its head; it is put into evaluation mode and back.
        table: The rows with their classes.
        progress: Told how many rows are done.

    Raises:
        UserError: The model has no head, or one for each task and the rows name none.
    """
    classifier = head_of(view.loaded)
    if len(table) and not len(table.tasks):
        refuse_no_task(classifier, None)
    scores = np.zeros((len(table), len(classifier.labels)))
    for rows, _, logits in logit_passes(view, table, progress):
        shares = torch.log_softmax(logits.double() / classifier.temperature, dim=-1)
        if classifier.class_tasks:  # what is of another task stays so, whatever the temperature
            shares = shares.masked_fill(logits <= NEVER, NEVER)
        scores[rows] = shares.cpu().numpy()
    scores = view.deal.added(scores)
    totals = -scores[np.arange(len(table)), table.labels] if len(table) else np.zeros(0)
    return RowLosses(totals, np.ones(len(table))), scores


def head_of(loaded: Loaded) -> Classifier:
    """The head of a classifier.

    Raises:
        UserError: The model has none.
    """
    if loaded.classifier is None:
        fix = "name a run of `task: classification`, or use `burnish generate`"
        raise UserError("this model has no classification head", where=loaded.path, fix=fix)
    return loaded.classifier


def refuse_no_task(classifier: Classifier, task: str | None) -> None:
    """Refuse rows of no task, or of an unknown one, where each task has classes of its own.

    Raises:
        UserError: With the tasks that there are.
    """
    known = dict.fromkeys(classifier.class_tasks)
    if known and task not in known:
        what = f"this model has a head for each of the tasks {', '.join(known)}"
        said = f"{what}, and none for `{task}`" if task else f"{what}, and the rows do not say which task they are of"
        fix = suggestion(task, known) if task else "name it: `--task NAME`, or `task` of a source in `data`"
        raise UserError(said, where="task", fix=fix)


def renderer_of(loaded: Loaded) -> LabelledRenderer:
    """What turns texts into tokens for a classifier, as in training; rows end where the model's positions do."""
    most = positions_of(loaded.model.config) or RenderConfig().max_length
    return LabelledRenderer(loaded.tokenizer, RenderConfig(max_length=most), head_of(loaded).labels)


def probabilities(
    loaded: Loaded, texts: Sequence[str], pairs: Sequence[str] | None = None, task: str | None = None
) -> Scores:
    """Probability of every class for every text, [N, K]; 0 for the classes of another task than theirs.

    Args:
        loaded: A model with its head.
        texts: The texts.
        pairs: The second texts, for a classification of pairs.
        task: The task of all texts, for a head with classes of several.

    Raises:
        UserError: The model has no head, a text has no tokens, or the task is not named or not known.
    """
    refuse_no_task(head_of(loaded), task)
    label = head_of(loaded).labels[0]  # a row needs some class; the scores do not depend on it
    seconds: Sequence[str | None] = pairs if pairs is not None else [None] * len(texts)
    examples = [
        Example(f"text {i}", prompt=text, pair=pair, completion=label)
        for i, (text, pair) in enumerate(zip(texts, seconds, strict=True), 1)
    ]
    rows = renderer_of(loaded).render_all(examples)
    bad = next((e.id for e, r in zip(examples, rows, strict=True) if not isinstance(r, Rendered)), None)
    if bad is not None:
        raise UserError("a text without tokens has no class", where=bad, fix="leave it out")
    named = (task,) if task is not None and head_of(loaded).class_tasks else ()
    table = TokenTable.build(
        [e.id for e in examples], [r for r in rows if isinstance(r, Rendered)], named * len(rows), named
    )
    layout = "packed" if supports_packing(loaded.model) else "bucketed"
    view = View(loaded, layout, batch_tokens(loaded), nullcontext)  # type: ignore[arg-type]
    return np.exp(score_classes(view, table)[1])
