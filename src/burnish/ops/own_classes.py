"""Several tasks in one head: every row sees the classes of its own task. Shapes: B rows, K classes of all tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from burnish.core.errors import UserError
from burnish.core.names import suggestion

NEVER = -1e4
"""The logit of another task's class: finite, so that it can be stored, and so low that its probability is exactly zero
in every format (``exp(-1e4)`` is 0 in fp64 too) and no gradient passes."""


def own_mask(class_tasks: Sequence[str], row_tasks: Sequence[str | None], device: torch.device) -> Tensor:
    """[B, K] which classes are of the task of each row.

    Raises:
        UserError: A row is of no task, or of one without classes.
    """
    known = list(dict.fromkeys(class_tasks))
    strange = next((task for task in row_tasks if task not in known), "")
    if strange != "":
        what = "a row names no task" if strange is None else f"no head of this model is for the task `{strange}`"
        fix = "name it: `task` of its source in `data`" if strange is None else suggestion(strange, known)
        raise UserError(f"{what}, and every task has classes of its own", where="task", fix=fix)
    numbers = torch.tensor([known.index(task) for task in class_tasks], device=device)
    rows = torch.tensor([known.index(str(task)) for task in row_tasks], device=device)
    return rows[:, None] == numbers


def own_logits(logits_BK: Tensor, class_tasks: Sequence[str], row_tasks: Sequence[str | None]) -> Tensor:
    """Logits with ``NEVER`` for the classes of other tasks: a softmax is then that over the row's own classes."""
    return logits_BK.masked_fill(~own_mask(class_tasks, row_tasks, logits_BK.device), NEVER)
