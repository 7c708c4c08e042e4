"""What an adapter is, how it hangs on its host, and the table of methods.

A method is one file: a configuration, an ``Adapter``, and a function decorated with ``@method(...)`` that says which
adapters go where. Nothing else needs to be edited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from burnish.adapters.chains import beside_of
from burnish.core.config import Config
from burnish.core.errors import UserError
from burnish.core.registry import Registry
from burnish.core.types import Batch, Term
from burnish.models.anatomy import Site
from burnish.models.maps import Beside
from burnish.models.route import Joined, Some, Switch

RESERVED = "burnish_adapters"
"""Name of the child module under which a host carries its adapters."""


class NotMergeable(UserError):
    """The adapter cannot be folded into the weights of its host."""

    def __init__(self, what: str, *, where: str = "", fix: str = "use the adapter unmerged") -> None:
        super().__init__(what, where=where, fix=fix)


class MethodConfig(Config):
    """Base of every method's configuration; ``method`` says which one it is."""

    method: str
    name: str | None = Field(None, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=60)
    """What a stage calls this entry; by default the method, with a number behind it where it is there twice."""
    tasks: tuple[str, ...] = ()
    """Only rows of these tasks use it (`data.train` names the task of a source); without any, all rows do."""
    rate_scale: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Factor on the learning rate of this entry's parameters."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Factor on the learning rate from each layer to the one below it: the last layer learns at the full rate, the one
    below at `layer_decay` times it, and so on; embeddings count as one layer below the first."""


class Adapter(nn.Module):
    """New parameters at one site. Its three edges default to the identity; none keeps anything between calls.

    Attributes:
        by_token: Whether the edges treat each token of the first argument and of the output by itself, so that the
            adapter can act on some rows of a batch and leave the others alone.
        reads_output_only: Whether ``after`` reads nothing but the output, position by position, and there is no
            ``before``: a fused layer then applies it behind its own product.
        reads_input_only: The same of ``before`` and the first argument; a fused layer applies it ahead of its product.
        reads_residual_only: The same of ``before`` and the second argument.
        adds: Where ``change`` is added, position by position, if that is all that the adapter does: `parallel` adds
            ``change(first argument)`` to the output, `normed` adds ``change(output)`` to the argument of a norm.
        virtual_tokens: How many tokens it puts in front of every row of its host, a backbone.
        rowwise: Whether it has a form for some rows only (``joined``), since it changes how long they are.
        only_adds: Whether ``before`` adds arguments and does nothing else, so that a fused layer can ask for them.
        merges_copies: Whether ``merge_`` changes the host that it is given and no other, so that a copy may be merged.
    """

    by_token = True
    reads_output_only = False
    reads_input_only = False
    reads_residual_only = False
    adds: Literal["", "parallel", "normed"] = ""
    virtual_tokens: int = 0
    rowwise = False
    only_adds: bool = False
    merges_copies: bool = True

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Change what the host is called with."""
        return args, kwargs

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Change what the host returns; ``args`` and ``kwargs`` are what it was called with."""
        return output

    @classmethod
    def joined(cls, entries: Sequence[tuple[Any, Sequence[bool]]]) -> Joined:
        """What several adapters at one host do together where each is for some rows: adapters, and whose rows."""
        raise NotImplementedError

    def around(self, host: nn.Module, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the host's output in another way; ``call`` is its own forward, or that of the adapter below."""
        return call(*args, **kwargs)

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

    def handed_over(self, trained: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What saving makes of trained tensors, by name within the adapter; a method that drops some of them says so.

        Args:
            trained: Parameters, as a checkpoint holds them.
            kept: Buffers, likewise.
        """
        return trained


class Slot(nn.Module):
    """The adapters of one host: sets by name, and in each set one adapter per entry of its configuration."""

    def __init__(self, switch: Switch) -> None:
        super().__init__()
        self.switch = switch
        self.handles: list[RemovableHandle | Takeover] = []
        self.edges: tuple[bool, bool] = (False, False)

    def active(self) -> list[Adapter]:
        """The adapters in use, in the order in which they apply; one that acts on some rows only is a ``Some``."""
        switch = self.switch
        if switch.route is None:
            return [a for name, key, a in self._entries(switch.active) if switch.serves(name, key)]
        route = switch.route
        entries = [(a, route.chosen(n, switch.tasks.get((n, k), ()))) for n, k, a in self._entries(route.sets)]
        kinds: dict[Any, list[tuple[Adapter, Sequence[bool]]]] = {}
        for adapter, rows in entries:
            if adapter.rowwise and any(rows):
                kinds.setdefault(_joins(adapter), []).append((adapter, rows))
        mixed = {kind: same for kind, same in kinds.items() if not all(all(rows) for _, rows in same)}
        found: list[Any] = [same[0][0].joined(same) for same in mixed.values()]
        for adapter, rows in entries:
            if all(rows) and _joins(adapter) not in mixed:
                found.append(adapter)
            elif any(rows) and not adapter.rowwise:
                found.append(Some(adapter, route.places(rows), route))
        return found

    def _entries(self, names: Iterable[str]) -> Iterator[tuple[str, str, Adapter]]:
        """Set, entry and adapter of these sets, in the order in which they apply."""
        for name in names:
            entries = self._modules.get(name)
            if entries is not None:
                for key, adapter in entries._modules.items():
                    yield name, key, adapter  # type: ignore[misc]

    def beside(self, host: nn.Module) -> Beside | None:
        """What the adapters in use do at a module that a fused layer computes itself; None where one does more."""
        return beside_of(host, self.active())

    @property
    def virtual_tokens(self) -> int:
        """How many tokens the adapters in use put in front of every row."""
        return sum(adapter.virtual_tokens for adapter in self.active())


def _joins(adapter: Adapter) -> Any:
    """What adapters of one kind have in common: they are joined by the same function."""
    return adapter.joined.__func__  # type: ignore[attr-defined]


def _before(host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    slot: Slot = host._modules[RESERVED]  # type: ignore[assignment]
    for adapter in slot.active():
        args, kwargs = adapter.before(host, args, kwargs)
    slot.switch.follow(kwargs.get("segment_lengths"))
    return args, kwargs


def _after(host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    slot: Slot = host._modules[RESERVED]  # type: ignore[assignment]
    for adapter in slot.active():
        output = adapter.after(host, args, kwargs, output)
    return output


def _around(host: nn.Module, *args: Any, **kwargs: Any) -> Any:
    slot: Slot = host._modules[RESERVED]  # type: ignore[assignment]
    call: Callable[..., Any] = partial(type(host).forward, host)
    for adapter in slot.active():
        call = partial(adapter.around, host, call)
    return call(*args, **kwargs)


class Takeover:
    """A forward of ours in the place of a host's own, on this instance only, until it is removed."""

    def __init__(self, host: nn.Module) -> None:
        self.host = host
        host.forward = MethodType(_around, host)

    def remove(self) -> None:
        """Give the host its own forward back."""
        self.host.__dict__.pop("forward", None)


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
    if type(adapter).around is not Adapter.around and not any(isinstance(h, Takeover) for h in slot.handles):
        slot.handles.append(Takeover(host))
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
        leaves_it_to_the_head: Whether nothing of the model is trained on purpose, because the task's new head is.
    """

    placed: tuple[Placed, ...] = ()
    base: tuple[str, ...] = ()
    sites: tuple[Site, ...] = ()
    rate_scales: Mapping[str, float] = field(default_factory=dict)
    leaves_it_to_the_head: bool = False


C = TypeVar("C", bound=MethodConfig)
Build = Callable[[PreTrainedModel, Any, int], Parts]
ToPeft = Callable[[MethodConfig, tuple[Placed, ...]], tuple[dict[str, Any], dict[str, Tensor]]]
FromPeft = Callable[[PreTrainedModel, Mapping[str, Any], Mapping[str, Tensor]], tuple[MethodConfig, Parts]]
WritePeft = Callable[[Path, MethodConfig, tuple[Placed, ...], str | None], None]
Resolve = Callable[[Any, PreTrainedTokenizerBase], MethodConfig]
Format = Literal["peft", "burnish", "model"]
Sample = Callable[[int], Iterator[tuple[Batch, Callable[[], Tensor]]]]
"""From a number to that many micro-batches of the training rows, each with a function that runs the model on it and
returns its loss."""
Prepare = Callable[[Any, tuple[Placed, ...], Sample, int], None]
MakeTerms = Callable[[Any, tuple[Placed, ...]], list[Term]]
Observe = Callable[[Any, tuple[Placed, ...], int, int], None]


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
        prepare: Sets initial values from training rows: configuration, adapters, micro-batches, seed. It runs once the
            adapters are attached, draws from the seed alone, and leaves everything else as it was.
        terms: Further terms of the objective, such as a penalty: from configuration and adapters.
        observe: Sees gradients and new values between an update and the clearing of its gradients: configuration,
            adapters, how many updates are done, and how many there will be. What it remembers is in buffers of the
            adapters, which checkpoints hold.
        write_peft: Writes both files by itself, where ``to_peft`` does not say it all: folder, configuration, adapters
            and the name of the base.
        bare: Whether ``peft`` keeps its tensors for the model as a whole, under names without modules.
        fits_peft: Whether ``peft``'s format can express these adapters, where it cannot express all of them; the others
            are saved in Burnish's own.
        unsaid: Fields of the configuration that ``peft``'s has no word for.
        resolve: Fills in what a configuration leaves to the tokenizer; called once, before ``build``.
        largest: What sizes it, at most, where a budget of parameters says: beyond it the cost grows and not the gain.
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
    prepare: Prepare | None = None
    terms: MakeTerms | None = None
    observe: Observe | None = None
    write_peft: WritePeft | None = None
    bare: bool = False
    fits_peft: Callable[[MethodConfig, tuple[Placed, ...]], bool] | None = None
    unsaid: tuple[str, ...] = ()
    resolve: Resolve | None = None
    largest: int | None = None


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
