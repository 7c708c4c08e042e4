"""Does everything that is to be trained really train? Answered by the first updates, at no cost afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from burnish.core.errors import TrainingStopped
from burnish.ops.fingerprint import fingerprint
from burnish.train.distributed.engine import Engine

UPDATES = 3
"""Updates that the answer takes. LoRA's A has no gradient in the first one, because B is zero there."""

Named = Sequence[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class Watched:
    """A trained tensor, or some rows of one, that the updates of some tasks have to move.

    Attributes:
        name: The tensor, for messages.
        parameter: The tensor.
        tasks: The tasks whose rows reach it; those of all tasks if empty.
        rows: Which of its rows are meant; all if empty.
    """

    name: str
    parameter: nn.Parameter
    tasks: frozenset[str] = frozenset()
    rows: tuple[int, ...] = ()

    def value(self, engine: Engine) -> Tensor:
        """What is meant of the tensor."""
        value = engine.whole(self.parameter)
        return value[list(self.rows)] if self.rows else value

    def has_gradient(self, engine: Engine) -> bool:
        """Whether anything of it has one now."""
        gradient = engine.gradient(self.parameter)
        return gradient is not None and bool((gradient[list(self.rows)] if self.rows else gradient).any())


@dataclass
class _Group:
    """What the rows of the same tasks reach: it is judged after the first updates that hold such rows."""

    tasks: frozenset[str]
    left: int
    watched: list[Watched]
    before: list[tuple[float, float]] = field(default_factory=list)
    had_gradient: list[bool] = field(default_factory=list)

    def reached(self, tasks: frozenset[str]) -> bool:
        """Whether an update with rows of these tasks counts."""
        return bool(self.left) and (not self.tasks or not self.tasks.isdisjoint(tasks))


class Liveness:
    """Watches every trained tensor over its first updates: it must have had a gradient, and must have moved.

    A tensor's first updates are those of the run, and for one that only rows of some tasks reach those that hold such a
    row. One that fewer updates reach than the answer takes is not judged.

    Args:
        trainable: What is trained: names and parameters, or ``Watched``.
        updates: Updates that the run makes in all; a run of one update is not judged.
        engine: Finds whole tensors where they lie in shares.
    """

    def __init__(self, trainable: Named | Sequence[Watched], updates: int, engine: Engine | None = None) -> None:
        self.engine = engine or Engine()
        watched = [one if isinstance(one, Watched) else Watched(*one) for one in trainable]
        count = min(UPDATES, updates) if updates > 1 else 0
        tasks = dict.fromkeys([frozenset[str](), *(one.tasks for one in watched)])
        self.groups = [_Group(t, count, [one for one in watched if one.tasks == t]) for t in tasks]
        self._tasks: frozenset[str] = frozenset()
        for group in self.groups:
            group.before = [fingerprint(one.value(self.engine)) for one in group.watched] if count else []
            group.had_gradient = [False] * len(group.watched)

    @property
    def left(self) -> int:
        """Updates until what all rows reach is judged."""
        return self.groups[0].left

    def saw_gradients(self, tasks: Iterable[str | None] = ()) -> None:
        """Take note of which tensors have a gradient now; called between the backward pass and the update.

        Args:
            tasks: The tasks of the update's rows.
        """
        self._tasks = frozenset(task for task in tasks if task is not None)
        for group in self.groups:
            if group.reached(self._tasks):
                pairs = zip(group.had_gradient, group.watched, strict=True)
                group.had_gradient = [one.has_gradient(self.engine) or had for had, one in pairs]

    def updated(self, learning_rate: float) -> None:
        """Count an update that was made, and judge what it was the last of the first ones for.

        Raises:
            TrainingStopped: A tensor never had a gradient, or never moved.
        """
        if not learning_rate:
            return
        for group in self.groups:
            if group.reached(self._tasks):
                group.left -= 1
                if not group.left:
                    _judge(group, self.engine)


def _judge(group: _Group, engine: Engine) -> None:
    names, of = [one.name for one in group.watched], ""
    if group.tasks:
        of = f" with rows of the task {', '.join(sorted(group.tasks))}"
    dead = [name for name, had in zip(names, group.had_gradient, strict=True) if not had]
    if dead:
        raise TrainingStopped(
            f"{len(dead)} of {len(names)} trained tensors had no gradient in the first updates{of}",
            where=_listed(dead),
            fix="nothing of the loss reaches them: leave them out with `adapter.targets`, or see what cuts it",
        )
    after = [fingerprint(one.value(engine)) for one in group.watched]
    still = [name for name, a, b in zip(names, group.before, after, strict=True) if a == b]
    if still:
        raise TrainingStopped(
            f"{len(still)} of {len(names)} trained tensors did not move in the first updates{of}",
            where=_listed(still),
            fix="raise `train.learning_rate`; updates below the resolution of the weights are lost",
        )


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
