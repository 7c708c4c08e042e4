"""What belongs to some tasks of a run only: entries of `adapter`, and the classes of a head."""

from __future__ import annotations

from burnish.adapters.attach import Attached
from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.core.task_labels import numbers_of
from burnish.models.classifier import Classifier
from burnish.train.config import RunConfig
from burnish.train.liveness import Watched


def refuse_unnamed_tasks(config: RunConfig) -> None:
    """Refuse an entry of `adapter` that is for a task which no row has.

    Raises:
        UserError: There is one.
    """
    known = config.data.tasks
    for adapter in config.adapters:
        for task in adapter.tasks:
            if task not in known:
                fix = suggestion(task, known) if known else "write `task:` beside the `path` of each source"
                what = f"no source in `data` names the task `{task}`"
                raise UserError(what, where="adapter.tasks", fix=fix)


def watched_entries(attached: Attached) -> dict[str, tuple[Watched, ...]]:
    """By name, the parameters of entries that are for rows of some tasks."""
    entries = [(key, c.tasks) for key, c in zip(attached.keys, attached.configs, strict=True) if c.tasks]
    return {
        name: (Watched(name, parameter, frozenset(tasks)),)
        for key, tasks in entries
        for name, parameter in attached.trainable(key)
    }


def watched_head(head: Classifier) -> dict[str, tuple[Watched, ...]]:
    """By name, the parameters of a head whose classes are of several tasks: the classes of each task apart."""
    tasks = dict.fromkeys(head.class_tasks)
    return {
        name: tuple(
            Watched(f"{name}, task {task}", parameter, frozenset({task}), tuple(numbers_of(head.class_tasks, task)))
            for task in tasks
        )
        for name, parameter in head.named()
        if tasks
    }
