"""A classification of several tasks, each with classes of its own: rows are told apart by the task of their source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.core.task_labels import class_name, parted, tasks_of_classes
from burnish.data.config import RenderConfig
from burnish.data.example import Example
from burnish.data.labelled import LabelledRenderer, settle_labels, sort_labels
from burnish.data.render import Kind, Renderer
from burnish.data.splits import Values
from burnish.data.table import TokenTable
from burnish.data.tasks import ClassTask


class OwnClassesRenderer(LabelledRenderer):
    """Texts with the number of their class among those of all tasks, which are named ``TASK/LABEL``."""

    @property
    def class_tasks(self) -> tuple[str, ...]:
        """The task of each class."""
        return tasks_of_classes(self.labels)

    def class_of(self, example: Example) -> str:
        """The name of an example's class; an example without a task has it in full."""
        return example.label if example.task is None else class_name(example.task, example.label)


@dataclass(frozen=True)
class OwnClassesTask(ClassTask):
    """Tells the classes of each task apart.

    Attributes:
        tasks: The tasks that the data names.
    """

    tasks: tuple[str, ...] = ()

    @property
    def asked(self) -> list[str]:
        """The tasks, and the classes that the recipe lists."""
        return [f"classes of {' '.join(self.tasks)}", *self.classes.labels]

    def label_of(self, example: Example) -> str:
        """The name of an example's class."""
        return class_name(example.task or "", example.label)

    def settle(self, labels: Mapping[str, Values]) -> tuple[str, ...]:
        """The names of all classes, given or found, task by task.

        Raises:
            UserError: A task has fewer than two classes, or a class is of none of the tasks.
        """
        found = settle_labels(self.classes, labels)
        stray = next((name for name in found if parted(name)[0] not in self.tasks), None)
        if stray is not None:
            fix = f"write `{class_name(self.tasks[0], stray)}`, or set `task.heads: shared`"
            raise UserError(f"the class `{stray}` is of no task that the data names", where="task.labels", fix=fix)
        counts = Counter(tasks_of_classes(found))
        few = next((task for task in self.tasks if counts[task] < 2), None)
        if few is not None:
            what = f"a classification needs two classes, and the training rows of the task `{few}` have {counts[few]}"
            raise UserError(what, where="data.train", fix="give rows of another class, or leave this task out")
        if self.classes.labels:
            return found
        own = {task: [parted(name)[1] for name in found if parted(name)[0] == task] for task in self.tasks}
        return tuple(class_name(task, label) for task, ones in own.items() for label in sort_labels(ones))

    def renderer(
        self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig, kind: Kind, labels: tuple[str, ...]
    ) -> Renderer:
        """Texts as the tokenizer frames them, each with the number of its class among those of all tasks."""
        return OwnClassesRenderer(tokenizer, config, labels)

    def describe(
        self, splits: Mapping[str, dict[str, Any]], tables: Mapping[str, TokenTable], labels: tuple[str, ...]
    ) -> list[Finding]:
        """Count the classes of each split, and the tasks."""
        found = super().describe(splits, tables, labels)
        classes, rows = Counter(tasks_of_classes(labels)), Counter[str]()
        for name, count in splits["train"]["classes"].items():
            rows[parted(name)[0]] += count
        said = ", ".join(f"{task} ({classes[task]} classes, {rows[task]:,} rows)" for task in self.tasks)
        what = f"{len(self.tasks)} tasks, each with a head of its own: {said}"
        why = "A row is told apart from the classes of its own task only; `task.heads: shared` makes one head of all."
        return [Finding("note", "data.own-heads", what, where="task.heads", why=why), *found]
