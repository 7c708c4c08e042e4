"""Attaching adapters to a model, switching between them, and taking them off again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from burnish.adapters import own_format, peft_format
from burnish.adapters.base import (
    METHODS,
    RESERVED,
    Method,
    MethodConfig,
    NotMergeable,
    Parts,
    Placed,
    Slot,
    plug,
    unplug,
)
from burnish.adapters.entries import keys_of, refuse_entries
from burnish.adapters.kbit import refuse_quantized
from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.models.anatomy import Site, layers_below
from burnish.models.quantize import numbers_in, owners_of_parameters
from burnish.models.route import STATE as _STATE
from burnish.models.route import Switch


class _State:
    """What a model with adapters knows of them: the shared switch, its sets, and its flags as they were before."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.switch = Switch()
        self.sets: dict[str, Attached] = {}
        self.flags = {name: p.requires_grad for name, p in model.named_parameters()}


class Attached:
    """One named set of adapters on a model. Of several sets the newest is in use and trained, until ``use`` says else.

    Attributes:
        model: The model; its class and its own parameter names are unchanged.
        name: Name of the set.
        configs: Configurations, one per entry.
        keys: What each entry is called in this set: its name, or its method.
    """

    def __init__(
        self, model: PreTrainedModel, name: str, configs: tuple[MethodConfig, ...], parts: tuple[Parts, ...]
    ) -> None:
        self.model, self.name, self.configs, self._parts = model, name, configs, parts
        self.keys = keys_of(configs)

    @property
    def methods(self) -> tuple[Method, ...]:
        """The entries of the table of methods."""
        return tuple(METHODS[config.method] for config in self.configs)

    @property
    def placed(self) -> tuple[Placed, ...]:
        """Every adapter with its site."""
        return tuple(item for parts in self._parts for item in parts.placed)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the methods act."""
        return tuple(s for parts in self._parts for s in (parts.sites or [item.site for item in parts.placed]))

    @property
    def trains_base(self) -> bool:
        """Whether weights of the base itself are trained; then nothing can bring the base back."""
        return any(parts.base for parts in self._parts)

    def trainable(self, *keys: str) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of this set, as and in the order of ``model.named_parameters()``.

        Args:
            *keys: Only those of these entries; without any, of all.

        Raises:
            UserError: The set has no entry of that name.
        """
        strangers = [key for key in keys if key not in self.keys]
        if strangers:
            raise UserError(f"no entry `{strangers[0]}` is attached", fix=suggestion(strangers[0], self.keys))
        chosen = [p for key, p in zip(self.keys, self._parts, strict=True) if not keys or key in keys]
        own = {id(p) for parts in chosen for item in parts.placed for p in item.adapter.parameters()}
        base = {name for parts in chosen for name in parts.base}
        return [(n, p) for n, p in self.model.named_parameters() if id(p) in own or n in base]

    @property
    def parameters_count(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for _, p in self.trainable())

    def rate_scales(self) -> dict[str, float]:
        """Factors on the learning rate by parameter name, for methods whose parameters learn at different rates."""
        scales: dict[str, float] = {}
        for key, config, parts in zip(self.keys, self.configs, self._parts, strict=True):
            for name, _ in self.trainable(key) if config.rate_scale != 1 else ():
                scales[name] = config.rate_scale
            for item in parts.placed:
                for inner, factor in parts.rate_scales.items():
                    scales[_full_name(item.site, self.name, key, inner)] = factor * config.rate_scale
            for name, factor in self._by_depth(key, config.layer_decay):
                scales[name] = scales.get(name, 1.0) * factor
        return scales

    def _by_depth(self, key: str, decay: float) -> list[tuple[str, float]]:
        """Parameters of an entry that lie below the last layer, with the factor of their depth."""
        if decay == 1:
            return []
        below = layers_below(self.model, [name for name, _ in self.trainable(key)])
        return [(name, decay**count) for name, count in below.items() if count]

    def learning_rates(self) -> dict[str, tuple[float, str]]:
        """Default peak learning rate of every entry, and its reason."""
        methods = zip(self.keys, self.methods, strict=True)
        return {key: (entry.learning_rate, entry.reason) for key, entry in methods}

    @property
    def learning_rate(self) -> tuple[float, str]:
        """Default peak learning rate and its reason; of several methods, that of the most delicate one."""
        entry = min(self.methods, key=lambda m: m.learning_rate)
        return entry.learning_rate, entry.reason

    def without_gradient(self) -> list[str]:
        """Names of trained parameters that the last backward pass did not reach: an adapter that would stay dead."""
        return [name for name, p in self.trainable() if p.requires_grad and p.grad is None]

    def describe(self) -> dict[str, Any]:
        """What is trained, as JSON values, for the run's ``model.json``."""
        own: dict[str, int] = {}
        for item in self.placed:
            own[item.site.name] = own.get(item.site.name, 0) + sum(p.numel() for p in item.adapter.parameters())
        if not own:
            trained = {id(p) for _, p in self.trainable()}
            own = {s.name: sum(p.numel() for p in s.host.parameters(False) if id(p) in trained) for s in self.sites}
        base = [p for n, p in self.model.named_parameters() if RESERVED not in n.split(".")]
        total = sum(numbers_in(p) for p in base)
        sites = {s.name: s for s in self.sites}
        return {
            "parameters": total,
            "trainable": self.parameters_count,
            "trainable_share": self.parameters_count / max(1, total),
            "adapter": [config.model_dump(mode="json") for config in self.configs],
            "sites": [
                {"name": s.name, "role": str(s.role), "layer": s.layer, "parameters": own[s.name]}
                for s in sites.values()
            ],
        }

    def save(self, folder: Path, *, base_path: str | None = None, origin: Mapping[str, Any] | None = None) -> None:
        """Write the set: a single method in its format (``peft``'s, or a whole model), several in Burnish's own.

        Args:
            folder: Where; existing files of the same names are replaced, each one atomically.
            base_path: Folder or hub name of the base; by default what ``transformers`` noted when it loaded it.
            origin: What is known of the base, JSON values; it is kept in ``burnish.json``.
        """
        self._require_attached()
        path = base_path or getattr(getattr(self.model, "config", None), "name_or_path", None) or None
        alone = len(self.configs) == 1 and not self.configs[0].tasks
        file_format = self.methods[0].format if alone else "burnish"
        fits = self.methods[0].fits_peft
        if file_format == "peft" and fits is not None and not fits(self.configs[0], self.placed):
            file_format = "burnish"
        folder.mkdir(parents=True, exist_ok=True)
        if file_format == "peft":
            peft_format.save(folder, self.model, self.configs[0], self.placed, path)
        elif file_format == "model":
            own_format.save_model(folder, self.model)
        else:
            own_format.save_tensors(folder, own_format.short_names(self.trainable(), self.name))
        own_format.save_description(folder, file_format, self.configs, path, origin)

    def merge_(self) -> None:
        """Fold every adapter into the weights of its host, and take the set off.

        Raises:
            NotMergeable: An adapter has no closed form, or its host shares its weight with another module. Nothing
                has been changed then.
        """
        self._require_attached()
        owners = owners_of_parameters(self.model)
        for key, config in zip(self.keys, self.configs, strict=True):
            if config.tasks:
                raise NotMergeable(
                    f"`{key}` acts on rows of {', '.join(config.tasks)} only, and a merged weight acts on all rows"
                )
        for item in self.placed:
            item.adapter.check_mergeable(item.site.host)
            for parameter in item.site.host.parameters(recurse=False):
                others = [n for n in owners[id(parameter)] if n != item.site.name]
                if others:
                    raise NotMergeable(
                        f"`{item.site.name}` shares its weight with `{others[0]}`; merging would change both",
                        where=item.site.name,
                        fix="leave the adapter unmerged, or train without this target",
                    )
        for item in self.placed:
            item.adapter.merge_(item.site.host)
        self._remove()

    def detach_(self) -> None:
        """Take the set off; when it was the last one, modules, flags and outputs are those of before, to the bit.

        Raises:
            UserError: The set trains the base's own weights, which nothing can bring back.
        """
        self._require_attached()
        self._require_base("detached")
        self._remove()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model, to the bit, as long as the context lasts.

        Raises:
            UserError: The set trains the base's own weights.
        """
        self._require_base("disabled")
        with self.use():
            yield

    @contextmanager
    def use(self, *names: str, task: str | None = None) -> Iterator[None]:
        """Exactly these sets of the model, in this order, as long as the context lasts; with a task, this set.

        A backward pass under activation checkpointing computes layers again, so it belongs inside the context too.

        Args:
            *names: The sets.
            task: The task of all rows that do not name one.

        Raises:
            UserError: The model has no set of that name.
        """
        self._require_attached()
        state: _State = getattr(self.model, _STATE)
        for name in names:
            if name not in state.sets:
                raise UserError(f"no adapters `{name}` are attached", fix=f"attached: {', '.join(state.sets)}")
        switch, names = state.switch, names if names or task is None else (self.name,)
        before, switch.active, switch.task = (switch.active, switch.task), names, task
        try:
            known = switch.known_tasks()
            if task is not None and task not in known:
                fix = suggestion(task, known) if known else "all rows use all parts: leave the task out"
                raise UserError(f"no part of this model is for the task `{task}`", where="task", fix=fix)
            yield
        finally:
            switch.active, switch.task = before

    def _remove(self) -> None:
        for item in self.placed:
            unplug(item.site.host, self.name)
        state: _State = getattr(self.model, _STATE)
        del state.sets[self.name]
        for key in self.keys:
            state.switch.tasks.pop((self.name, key), None)
        if state.sets:
            _put_newest_in_use(state, self.model)
            return
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(state.flags.get(name, parameter.requires_grad))
        delattr(self.model, _STATE)

    def _require_attached(self) -> None:
        state = getattr(self.model, _STATE, None)
        if state is None or state.sets.get(self.name) is not self:
            raise UserError(f"the adapters `{self.name}` are no longer attached", fix="attach or load them again")

    def _require_base(self, done: str) -> None:
        if self.trains_base:
            names = ", ".join(config.method for config in self.configs)
            raise UserError(
                f"`{names}` trains the base's own weights, so it cannot be {done}",
                fix="load the base model again",
            )


def attach(
    model: PreTrainedModel, config: MethodConfig | Sequence[MethodConfig], *, name: str = "default", seed: int = 0
) -> Attached:
    """Freeze the model and put new adapters on it, ready to be trained.

    Args:
        model: Any model whose anatomy is known or can be walked. It is changed in place, reversibly.
        config: One method's configuration, or several for a hybrid.
        name: Name of this set; a model can carry several.
        seed: Seed of the initial values; each site draws from a generator of its own.

    Raises:
        UserError: The configuration does not fit the model, or the name is taken. The model is unchanged then.
    """
    configs = (config,) if isinstance(config, MethodConfig) else tuple(config)
    _refuse_name(model, name)
    return install(model, configs, tuple(METHODS[c.method].build(model, c, seed) for c in configs), name)


def install(model: PreTrainedModel, configs: tuple[MethodConfig, ...], parts: tuple[Parts, ...], name: str) -> Attached:
    """Hang built parts on the model: the second half of ``attach``, and of loading.

    Raises:
        UserError: The name is taken, two adapters of one method want the same site, or trained base weights and
            other sets would meet.
    """
    _refuse_name(model, name)
    attached = Attached(model, name, configs, parts)
    _refuse_clashes(attached)
    refuse_quantized(model, configs, parts)
    content = any(part.leaves_it_to_the_head for part in parts)
    if not attached.placed and not attached.trains_base and not content:
        raise UserError("nothing would be trained", where="adapter", fix="name at least one method and its targets")
    state: _State = getattr(model, _STATE, None) or _State(model)
    if not hasattr(model, _STATE):
        setattr(model, _STATE, state)
    for key, config, part in zip(attached.keys, configs, parts, strict=True):
        for item in part.placed:
            item.adapter.train(item.site.host.training)
            plug(item.site.host, name, key, item.adapter, state.switch)
        if config.tasks:
            state.switch.tasks[name, key] = config.tasks
    state.sets[name] = attached
    _put_newest_in_use(state, model)
    return attached


def sets_of(model: PreTrainedModel) -> tuple[Attached, ...]:
    """The sets of adapters on a model, the oldest first."""
    state: _State | None = getattr(model, _STATE, None)
    return tuple(state.sets.values()) if state is not None else ()


def _put_newest_in_use(state: _State, model: PreTrainedModel) -> None:
    newest = next(reversed(state.sets.values()))
    trained = {id(p) for _, p in newest.trainable()}
    for parameter in model.parameters():
        wanted = id(parameter) in trained
        if parameter.requires_grad != wanted:
            parameter.requires_grad_(wanted)
    state.switch.active = (newest.name,)


def _refuse_name(model: PreTrainedModel, name: str) -> None:
    if not name or not name.replace("-", "_").isidentifier() or hasattr(Slot(Switch()), name):
        raise UserError(f"`{name}` cannot name adapters", fix="use letters, digits, `-` and `_`, such as `default`")
    state = getattr(model, _STATE, None)
    if state is not None and name in state.sets:
        raise UserError(
            f"adapters `{name}` are attached already", fix="choose another `name`, or detach the first with `detach_()`"
        )


def _refuse_clashes(new: Attached) -> None:
    refuse_entries(new.configs, new._parts)
    state: _State | None = getattr(new.model, _STATE, None)
    training_base = [s.name for s in ([*state.sets.values()] if state else []) if s.trains_base]
    if state and state.sets and (new.trains_base or training_base):
        raise UserError(
            "a set that trains the base's own weights cannot share the model with other sets",
            where="adapter",
            fix="give both methods to one `attach` call, or merge or detach the first set",
        )


def _full_name(site: Site, name: str, key: str, inner: str) -> str:
    return f"{site.name}.{RESERVED}.{name}.{key}.{inner}".lstrip(".")  # a bare backbone has no name
