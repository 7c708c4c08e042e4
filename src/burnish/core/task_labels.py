"""Names of classes where several tasks have some of their own: ``TASK/LABEL``, so that two tasks may share a label."""

from __future__ import annotations

from collections.abc import Sequence

SEPARATOR = "/"


def class_name(task: str, label: str) -> str:
    """The name of a task's class among those of all tasks."""
    return f"{task}{SEPARATOR}{label}"


def parted(name: str) -> tuple[str, str]:
    """The task and the label of a class; a label may hold further separators, a task may not."""
    task, _, label = name.partition(SEPARATOR)
    return task, label


def numbers_of(class_tasks: Sequence[str], task: str) -> list[int]:
    """The numbers of a task's classes."""
    return [number for number, own in enumerate(class_tasks) if own == task]


def tasks_of_classes(names: Sequence[str]) -> tuple[str, ...]:
    """The task of each class."""
    return tuple(parted(name)[0] for name in names)
