"""Which adapters act on which rows of a batch. Shapes: B rows, T tokens.

A model that carries adapters has one ``Switch``. Most of the time all rows use the same sets; a batch whose rows belong
to several tasks (``tasks``), or ask for several sets (``adapters``), brings a ``Route`` for as long as it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.core.types import Batch

STATE = "burnish_attachments"
"""Name under which a model keeps what it knows of its adapters."""


class Route:
    """The rows of one batch, and where they lie in its tensors.

    Args:
        sets: For each row the adapter sets that it uses.
        tasks: For each row its task, or None.
        lengths: Tokens of each row of a pack; None where each row has a line of its own.
        device: Where the places are needed.
    """

    def __init__(
        self,
        sets: Sequence[tuple[str, ...]],
        tasks: Sequence[str | None],
        lengths: Sequence[int] | None,
        device: torch.device,
    ) -> None:
        self.rows, self.tasks, self.device = tuple(sets), tuple(tasks), device
        self.lengths = tuple(lengths) if lengths is not None else None
        self.sets = tuple(dict.fromkeys(name for row in self.rows for name in row))
        self.dim = 0 if lengths is None else 1
        self.size = len(self.rows) if lengths is None else sum(lengths)
        self._chosen: dict[tuple[str, tuple[str, ...]], tuple[bool, ...]] = {}
        self._places: dict[tuple[bool, ...], Tensor] = {}

    def chosen(self, name: str, tasks: tuple[str, ...]) -> tuple[bool, ...]:
        """Which rows use a set's entry that belongs to these tasks."""
        key = (name, tasks)
        if key not in self._chosen:
            rows = zip(self.rows, self.tasks, strict=True)
            self._chosen[key] = tuple(name in row and (not tasks or task in tasks) for row, task in rows)
        return self._chosen[key]

    def places(self, chosen: tuple[bool, ...]) -> Tensor:
        """Where these rows lie along ``dim``."""
        if chosen not in self._places:
            self._places[chosen] = self._where(chosen)
        return self._places[chosen]

    def grown(self, lengths: Sequence[int]) -> Route:
        """The same rows with other lengths: something was put in front of them."""
        return Route(self.rows, self.tasks, lengths, self.device)

    def _where(self, chosen: Sequence[bool]) -> Tensor:
        mask = torch.tensor(chosen)
        if self.lengths is not None:
            # what fills a pack up lies behind its rows and belongs to none
            mask = mask.repeat_interleave(torch.tensor(self.lengths[: len(chosen)]))
        return mask.nonzero()[:, 0].to(self.device)


class Joined:
    """Adapters of one kind at one host, each for its own rows; to the host they look like one for all rows."""

    training = False
    reads_output_only = False
    reads_input_only = False
    reads_residual_only = False
    adds = ""
    only_adds = False
    virtual_tokens = 0

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Change what the host is called with."""
        raise NotImplementedError

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Change what the host returns."""
        return output


class Some(Joined):
    """An adapter that acts on some places of a batch; to its host it looks like one that acts on all.

    Args:
        adapter: The adapter; each of its edges treats every token by itself.
        places: Where it acts, along the route's ``dim``.
        route: The batch.
    """

    def __init__(self, adapter: Any, places: Tensor, route: Route) -> None:
        self.adapter, self.places, self.route = adapter, places, route
        if not adapter.by_token:
            raise UserError(
                f"a {type(adapter).__name__} cannot act on some rows of a batch only",
                where="adapter",
                fix="give its rows a batch of their own, or use a prompt (`method: prompt`) for what belongs to a task",
            )

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Change these places of the arguments."""
        some, some_named = self._some(args), self._some_named(kwargs)
        changed, named = self.adapter.before(host, some, some_named)
        args = tuple(a if c is s else self._put(a, c) for a, s, c in zip(args, some, changed, strict=True))
        return args, {n: v if named[n] is some_named[n] else self._put(v, named[n]) for n, v in kwargs.items()}

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Change these places of the output."""
        some = self.adapter.after(host, self._some(args), self._some_named(kwargs), self._pick(output))
        return self._put(output, some)

    def around(self, host: nn.Module, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Compute these places in another way."""
        some = self.adapter.around(host, call, *self._some(args), **self._some_named(kwargs))
        return self._put(call(*args, **kwargs), some)

    def _some(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._pick(value) for value in values)

    def _some_named(self, values: dict[str, Any]) -> dict[str, Any]:
        return {name: self._pick(value) for name, value in values.items()}

    def _pick(self, value: Any) -> Any:
        if not self._along(value):
            return value
        return value.index_select(self.route.dim, self.places)

    def _put(self, whole: Tensor, some: Tensor) -> Tensor:
        if not self._along(whole):
            raise UserError(
                "adapters of some rows meet a layer that does not keep the rows of a batch apart",
                where=type(self.adapter).__name__,
                fix="give the rows of each task a batch of their own, or leave this layer out of the targets",
            )
        return whole.index_copy(self.route.dim, self.places, some.to(whole.dtype))

    def _along(self, value: Any) -> bool:
        dim = self.route.dim
        return isinstance(value, Tensor) and value.dim() > dim and value.shape[dim] == self.route.size


class Switch:
    """Which adapter sets of a model are in use. All its hosts share one, so switching costs one assignment.

    Attributes:
        active: Names of the sets that all rows use, in the order in which they apply.
        task: The task of all rows, where a batch does not say.
        tasks: For each entry (set, key) the tasks that it is for; absent where it is for all.
        named: Tasks that are known though no entry is for them alone, such as those that own a head.
        route: Rows of the batch that is being computed, where they differ.
        held: Whether a route stays after the forward pass, for a backward pass that computes layers again.
    """

    def __init__(self) -> None:
        self.active: tuple[str, ...] = ()
        self.task: str | None = None
        self.tasks: dict[tuple[str, str], tuple[str, ...]] = {}
        self.named: frozenset[str] = frozenset()
        self.route: Route | None = None
        self.held = False

    def serves(self, name: str, key: str) -> bool:
        """Whether an entry acts on rows of the task that all rows have."""
        tasks = self.tasks.get((name, key))
        return not tasks or self.task in tasks

    def follow(self, lengths: Sequence[int] | None) -> None:
        """Take note that the rows of a pack have other lengths from here on."""
        route = self.route
        if route is not None and route.lengths is not None and lengths is not None and tuple(lengths) != route.lengths:
            self.route = route.grown(lengths)

    def known_tasks(self) -> set[str]:
        """Every task that an entry of the sets in use is for."""
        return {task for (name, _), tasks in self.tasks.items() if name in self.active for task in tasks}


def tasks_of(model: nn.Module) -> set[str]:
    """The tasks that a model has parts of its own for."""
    switch = switch_of(model)
    return switch.known_tasks() if switch is not None else set()


def name_tasks(model: nn.Module, tasks: Iterable[str]) -> None:
    """Let rows of these tasks pass, though some of them may own no adapters."""
    switch = switch_of(model)
    if switch is not None:
        switch.named |= frozenset(tasks)


def switch_of(model: nn.Module) -> Switch | None:
    """The switch of a model with adapters, or None."""
    state = model.__dict__.get(STATE)
    return state.switch if state is not None else None


@contextmanager
def routed(model: nn.Module, batch: Batch, lengths: Sequence[int] | None, device: torch.device) -> Iterator[None]:
    """Let the rows of this batch use what they ask for, as long as the context lasts.

    Args:
        model: The model that computes the batch.
        batch: Its ``tasks`` and ``adapters`` say what each row is and wants; without both nothing changes.
        lengths: Tokens of the rows of a pack as they are computed, filling row included; None for any other layout.
        device: Where the batch is.

    Raises:
        UserError: Rows have a task or a set that the model does not know.
    """
    switch = switch_of(model)
    if switch is None:
        yield
        return
    route = _route(switch, model, batch, lengths, device)
    before, switch.route = switch.route, route
    try:
        yield
    finally:
        if not switch.held:
            switch.route = before


@contextmanager
def holding(model: nn.Module) -> Iterator[None]:
    """Keep the route of the batches computed inside, so that a backward pass finds it; it ends with the context."""
    switch = switch_of(model)
    if switch is None:
        yield
        return
    switch.held = True
    try:
        yield
    finally:
        switch.held, switch.route = False, None


@contextmanager
def for_task(model: nn.Module, task: str | None) -> Iterator[None]:
    """Let all rows be of this task, as long as the context lasts; None changes nothing.

    Raises:
        UserError: The model has no part for it.
    """
    switch = switch_of(model)
    known = switch.known_tasks() if switch is not None else set()
    if task is not None and task not in known and (known or switch is None):
        fix = suggestion(task, known) if known else "leave the task out: all rows use the whole model"
        raise UserError(f"no part of this model is for the task `{task}`", where="task", fix=fix)
    if switch is None:
        yield
        return
    before, switch.task = switch.task, task
    try:
        yield
    finally:
        switch.task = before


def require_task(model: nn.Module, batch: Batch) -> None:
    """Refuse rows that do not say which task they are of, where the model has parts that some tasks only use.

    A row whose task is None uses what all tasks share.

    Raises:
        UserError: They do not.
    """
    if "tasks" not in batch and "adapters" not in batch:
        refuse_missing_task(model)


def refuse_missing_task(model: nn.Module) -> None:
    """Refuse to compute rows of no task, where the model in use has parts that are for some tasks only.

    Raises:
        UserError: It has, and no task is set.
    """
    switch = switch_of(model)
    if switch is None or not switch.tasks or switch.task is not None:
        return
    known = switch.known_tasks()
    if known:
        raise UserError(
            f"this model has parts of its own for the tasks {', '.join(sorted(known))}, and the rows do not say "
            "which task they are of",
            where="task",
            fix="name it: `--task NAME`, `task` of a source in `data`, or `attached.use(task=NAME)`",
        )


def _route(
    switch: Switch, model: nn.Module, batch: Batch, lengths: Sequence[int] | None, device: torch.device
) -> Route | None:
    tasks, names = batch.get("tasks"), batch.get("adapters")
    if tasks is None and names is None:
        return None
    known = switch.known_tasks()
    count = len(tasks if tasks is not None else names or ())
    rows = tasks if tasks is not None else (switch.task,) * count
    served = known | switch.named
    strangers = sorted({task for task in rows if task is not None and task not in served}) if known else []
    if strangers:
        raise UserError(
            f"no part of this model is for the task `{strangers[0]}`",
            where="task",
            fix=suggestion(strangers[0], served),
        )
    sets = [(name,) if name else () for name in names] if names is not None else [switch.active] * count
    attached = model.__dict__[STATE].sets
    unknown = sorted({name for row in sets for name in row if name not in attached})
    if unknown:
        raise UserError(f"no adapters `{unknown[0]}` are attached", fix=suggestion(unknown[0], attached))
    return Route(sets, rows, lengths, device)
