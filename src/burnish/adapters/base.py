"""What an adapter is, how it hangs on its host, and the table of methods.

A method is one file: a configuration, an ``Adapter``, and a function decorated with ``@method(...)`` that says which
adapters go where. Nothing else needs to be edited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from burnish.core.config import Config
from burnish.core.errors import UserError
from burnish.core.registry import Registry
from burnish.models.anatomy import Site

RESERVED = "burnish_adapters"
"""Name of the child module under which a host carries its adapters."""


class NotMergeable(UserError):
    """The adapter cannot be folded into the weights of its host."""

    def __init__(self, what: str, *, where: str = "", fix: str = "use the adapter unmerged") -> None:
        super().__init__(what, where=where, fix=fix)


class MethodConfig(Config):
    """Base of every method's configuration; ``method`` says which one it is."""

    method: str


class Adapter(nn.Module):
    """New parameters at one site. Both edges default to the identity; neither keeps anything between calls.

    Attributes:
        virtual_tokens: How many tokens it puts in front of every row of its host, a backbone.
        only_adds: Whether ``before`` adds arguments and does nothing else, so that a fused layer can ask for them.
    """

    virtual_tokens: int = 0
    only_adds: bool = False

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Change what the host is called with."""
        return args, kwargs

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Change what the host returns; ``args`` and ``kwargs`` are what it was called with."""
        return output

    def check_mergeable(self, host: nn.Module) -> None:
        """Raise ``NotMergeable`` if ``merge_`` would. Called for every adapter before the first one is merged."""
        if type(self).merge_ is Adapter.merge_:
            raise NotMergeable(f"{type(self).__name__} has no closed form in the weights of its host")

    def merge_(self, host: nn.Module) -> None:
        """Fold the adapter into the host's weights.

        Raises:
            NotMergeable: There is no closed form.
        """
        self.check_mergeable(host)


class Switch:
    """Which adapter sets of a model are in use. All its hosts share one, so switching costs one assignment."""

    def __init__(self) -> None:
        self.active: tuple[str, ...] = ()


class Slot(nn.Module):
    """The adapters of one host: sets by name, and in each set one adapter per method."""

    def __init__(self, switch: Switch) -> None:
        super().__init__()
        self.switch = switch
        self.handles: list[RemovableHandle] = []
        self.edges: tuple[bool, bool] = (False, False)

    def active(self) -> list[Adapter]:
        """The adapters in use, in the order in which they apply."""
        sets = self._modules
        return [a for name in self.switch.active if name in sets for a in sets[name].children()]  # type: ignore[union-attr,misc]

    def added(self, host: nn.Module) -> dict[str, Any] | None:
        """The arguments that the adapters in use add to a call of the host; None where one does anything else."""
        kwargs: dict[str, Any] = {}
        for adapter in self.active():
            if not adapter.only_adds:
                return None
            _, kwargs = adapter.before(host, (), kwargs)
        return kwargs

    @property
    def virtual_tokens(self) -> int:
        """How many tokens the adapters in use put in front of every row."""
        return sum(adapter.virtual_tokens for adapter in self.active())


def _before(host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    slot: Slot = host._modules[RESERVED]  # type: ignore[assignment]
    for adapter in slot.active():
        args, kwargs = adapter.before(host, args, kwargs)
    return args, kwargs


def _after(host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    slot: Slot = host._modules[RESERVED]  # type: ignore[assignment]
    for adapter in slot.active():
        output = adapter.after(host, args, kwargs, output)
    return output


def slot_of(host: nn.Module) -> Slot | None:
    """The host's adapters, or None."""
    found = host._modules.get(RESERVED)
    return found if isinstance(found, Slot) else None


def plug(host: nn.Module, name: str, key: str, adapter: Adapter, switch: Switch) -> None:
    """Hang ``adapter`` on ``host`` as ``key`` of the set ``name``; hooks come with the first one that needs them."""
    slot = slot_of(host)
    if slot is None:
        slot = Slot(switch)
        host.add_module(RESERVED, slot)
    if name not in slot._modules:
        slot.add_module(name, nn.ModuleDict())
    slot.get_submodule(name).add_module(key, adapter)
    uses = (type(adapter).before is not Adapter.before, type(adapter).after is not Adapter.after)
    if uses[0] and not slot.edges[0]:
        slot.handles.append(host.register_forward_pre_hook(_before, with_kwargs=True))
    if uses[1] and not slot.edges[1]:
        slot.handles.append(host.register_forward_hook(_after, with_kwargs=True))
    slot.edges = (uses[0] or slot.edges[0], uses[1] or slot.edges[1])


def unplug(host: nn.Module, name: str) -> None:
    """Take the set ``name`` off ``host``; with the last set the hooks and the child module go too."""
    slot = slot_of(host)
    if slot is None:
        return
    slot._modules.pop(name, None)
    if not slot._modules:
        for handle in slot.handles:
            handle.remove()
        del host._modules[RESERVED]


@dataclass(frozen=True)
class Placed:
    """An adapter and the site where it sits."""

    site: Site
    adapter: Adapter


@dataclass(frozen=True)
class Parts:
    """What one configuration brings into a model.

    Attributes:
        placed: New adapters.
        base: Names of the base model's own parameters that are trained.
        sites: Where the method acts, for the report; by default the sites of ``placed``.
        rate_scales: Factor on the learning rate by parameter name within an adapter, such as ``{"B": 16}``.
    """

    placed: tuple[Placed, ...] = ()
    base: tuple[str, ...] = ()
    sites: tuple[Site, ...] = ()
    rate_scales: Mapping[str, float] = field(default_factory=dict)


C = TypeVar("C", bound=MethodConfig)
Build = Callable[[PreTrainedModel, Any, int], Parts]
ToPeft = Callable[[MethodConfig, tuple[Placed, ...]], tuple[dict[str, Any], dict[str, Tensor]]]
FromPeft = Callable[[PreTrainedModel, Mapping[str, Any], Mapping[str, Tensor]], tuple[MethodConfig, Parts]]
Resolve = Callable[[Any, PreTrainedTokenizerBase], MethodConfig]
Format = Literal["peft", "burnish", "model"]


@dataclass(frozen=True)
class Method:
    """One entry of the table of methods.

    Attributes:
        name: The value of ``adapter.method``.
        config: Its configuration class.
        build: From model, configuration and seed to the parts. It must not change the model.
        learning_rate: Default peak learning rate.
        reason: Why that one; the run prints it.
        identity: Whether the model's outputs are unchanged before the first update.
        format: How a set of this one method is saved: ``peft``'s format, Burnish's own, or a whole model folder.
        peft_type: ``peft_type`` in ``peft``'s adapter_config.json.
        to_peft: From the placed adapters to ``peft``'s configuration and tensors.
        from_peft: The other way round.
        bare: Whether ``peft`` keeps its tensors for the model as a whole, under names without modules.
        fits_peft: Whether ``peft``'s format can express these adapters, where it cannot express all of them; the others
            are saved in Burnish's own.
        unsaid: Fields of the configuration that ``peft``'s has no word for.
        resolve: Fills in what a configuration leaves to the tokenizer; called once, before ``build``.
    """

    name: str
    config: type[MethodConfig]
    build: Build
    learning_rate: float
    reason: str
    identity: bool = True
    format: Format = "burnish"
    peft_type: str | None = None
    to_peft: ToPeft | None = None
    from_peft: FromPeft | None = None
    bare: bool = False
    fits_peft: Callable[[MethodConfig, tuple[Placed, ...]], bool] | None = None
    unsaid: tuple[str, ...] = ()
    resolve: Resolve | None = None


METHODS: Registry[Method] = Registry("adapter method")


def method(
    name: str, config: type[C], *, learning_rate: float, reason: str, **options: Any
) -> Callable[[Callable[[PreTrainedModel, C, int], Parts]], Callable[[PreTrainedModel, C, int], Parts]]:
    """Decorator that files a build function in the table; ``options`` are further fields of ``Method``."""

    def add(build: Callable[[PreTrainedModel, C, int], Parts]) -> Callable[[PreTrainedModel, C, int], Parts]:
        entry = Method(name, config, build, learning_rate=learning_rate, reason=reason, **options)
        METHODS.register(name)(entry)
        return build

    return add


def site_generator(seed: int, site: Site) -> torch.Generator:
    """A generator of its own for each site, so that a site starts alike whichever others are chosen with it."""
    mixed = seed
    for byte in site.name.encode():
        mixed = (mixed * 1_000_003 + byte) % (2**63 - 25)
    return torch.Generator().manual_seed(mixed)
