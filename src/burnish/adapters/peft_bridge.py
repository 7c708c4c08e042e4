"""Every other method of the installed `peft`, as ``method: peft:NAME``.

`peft` puts layers of its own in the place of a model's. Here they are made by `peft`, taken out again at once, and hung
on their hosts as adapters: names, modules and outputs of the base stay as they were, sets are switched by name, and a
method of `peft` stands beside native ones. A layer's view of its base is a second module object on the host's own
parameters, without the adapters. Files are written and read by `peft`'s own functions, with its layers put back for it.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.adapters.base import METHODS, RESERVED, Adapter, Method, MethodConfig, NotMergeable, Parts, Placed
from burnish.adapters.kbit import refuse_on_few_bits
from burnish.adapters.peft_format import CONFIG, OUTSIDE, PREFIX, WEIGHTS, base_modules, task_type
from burnish.adapters.peft_methods import (
    BOOKKEEPING,
    NOT_IDENTITY,
    ON_4_BITS,
    OWN_TARGETS,
    RATE,
    RATES,
    UNSUITED,
    UNSUITED_OPTIONS,
)
from burnish.core.errors import UserError
from burnish.core.files import write_atomic
from burnish.core.names import suggestion
from burnish.models.anatomy import ALL_LINEAR, Site, select, sites
from burnish.models.bitsandbytes_library import no_notes
from burnish.models.quantize import is_quantized

PEFT = "peft:"
SET = "default"  # what `peft` calls the one set of each of its layers


class PeftBridgeConfig(MethodConfig):
    """Any other method of the installed `peft` library, such as `peft:LOHA`; it needs `pip install 'burnish[peft]'`."""

    method: str = Field("peft:NAME", pattern=r"^peft:[A-Z0-9_]+$")
    """`peft:` and the name of the method as `peft` writes it in `peft_type`."""
    targets: str | tuple[str, ...] = "auto"
    """Where: as for `lora`, or the ends of any module names. `auto` is `all-linear`, or what `peft` chooses for methods
    that act on other modules, such as norms."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of `peft`'s configuration of that method, by their names there; the others keep `peft`'s defaults."""

    def agrees(self, read: MethodConfig) -> bool:
        """Whether a file that was read says what this one does; `peft` fills options in and changes some by itself."""
        assert isinstance(read, PeftBridgeConfig)
        given, found = (config.model_dump(mode="json")["options"] for config in (self, read))
        return self.method == read.method and all(found.get(k, v) == v for k, v in given.items())


class PeftAdapter(Adapter):
    """One layer of `peft` at its host.

    Args:
        host: The module in whose place `peft` put the layer.
        layer: That layer.
        bridge: What all layers of the set share.
    """

    merges_copies = False

    def __init__(self, host: nn.Module, layer: Any, bridge: Bridge) -> None:
        super().__init__()
        shadow = copy.copy(host)  # another module on the same parameters: no adapters, no hooks
        shadow.__dict__.pop("forward", None)
        for name, value in vars(host).items():
            if name.endswith("_hooks") or name.endswith("_hooks_with_kwargs") or name.endswith("_always_called"):
                shadow.__dict__[name] = type(value)()
        shadow.__dict__["_modules"] = {n: m for n, m in host._modules.items() if n != RESERVED}
        layer._modules.pop("base_layer")
        layer.__dict__["base_layer"] = shadow  # not as a part, whose parameters would be trained
        _freeze(layer)
        self.layer, self.bridge = layer, bridge

    def around(self, host: nn.Module, call: Any, *args: Any, **kwargs: Any) -> Any:
        """What `peft`'s layer makes of the host's input.

        Raises:
            UserError: Another adapter has taken the host over already; `peft`'s layer would not see it.
        """
        if getattr(call, "func", None) is not type(host).forward:
            raise UserError(
                f"two methods of `peft` act on one {type(host).__name__}", where="adapter", fix="part their targets"
            )
        return self.layer.forward(*args, **kwargs)

    def check_mergeable(self, host: nn.Module) -> None:
        """Refuse weights of 4 bits, and what `peft` refuses to merge, which a copy of the layer tells."""
        if is_quantized(host):
            raise NotMergeable("a base with weights of few bits takes no update", fix="merge into the whole base")
        try:
            copy.deepcopy(self.layer).merge(adapter_names=[SET])
        except Exception as error:
            raise NotMergeable(f"`peft:{self.bridge.name}` cannot be merged: {error}") from None

    @torch.no_grad()
    def merge_(self, host: nn.Module) -> None:
        """`peft`'s own merge.

        Raises:
            NotMergeable: `peft` refuses it.
        """
        self.check_mergeable(host)
        self.layer.merge(adapter_names=[SET])
        merged = self.layer.get_base_layer()
        for name, parameter in merged.named_parameters(recurse=False):  # some methods put another module there
            own = host._parameters[name]
            if own is not None and own.data_ptr() != parameter.data_ptr():
                own.data.copy_(parameter)


class Bridge:
    """What the layers of one set share: `peft`'s own model object, which is asked for its files.

    Attributes:
        name: The method, as `peft` calls it.
        model: `peft`'s wrapper around our model, whose layers are out but for ``with_layers``.
        layers: Every layer by the name of its place.
    """

    def __init__(self, name: str, model: Any, layers: dict[str, Any]) -> None:
        self.name, self.model, self.layers = name, model, layers

    @contextmanager
    def with_layers(self) -> Iterator[Any]:
        """`peft`'s model as it left it, for its functions on files."""
        base, hosts = self.model.get_base_model(), {}
        for name, layer in self.layers.items():
            hosts[name] = base.get_submodule(name)
            layer._modules["base_layer"] = layer.__dict__.pop("base_layer")
            _put(base, name, layer)
        try:
            with _quiet():
                yield self.model
        finally:
            for name, host in hosts.items():
                layer = self.layers[name]
                layer.__dict__["base_layer"] = layer._modules.pop("base_layer")
                _put(base, name, host)


def build(model: PreTrainedModel, config: PeftBridgeConfig, seed: int) -> Parts:
    """Let `peft` make its layers for the targets, and take them over.

    Raises:
        UserError: An option is unknown or does not fit, a target matches nothing, or `peft` refuses the model.
    """
    name = config.method.removeprefix(PEFT)
    return _parts(model, name, _peft_config(model, name, config), seed)


def _peft_config(model: PreTrainedModel, name: str, config: PeftBridgeConfig) -> Any:
    cls = _kinds()[name]
    known = set(cls.__dataclass_fields__) - UNSUITED_OPTIONS.keys()
    for key in config.options:
        if key in UNSUITED_OPTIONS:
            raise UserError(f"`{key}` cannot be used here", where=f"adapter.options.{key}", fix=UNSUITED_OPTIONS[key])
        if key not in known:
            raise UserError(
                f"`{config.method}` has no option `{key}`", where=f"adapter.options.{key}", fix=suggestion(key, known)
            )
    chosen = _targets(model, name, config.targets)
    with _as_user_error(config.method):
        return cls(**config.options, **({"target_modules": chosen} if chosen else {}), task_type=task_type(model))


def _targets(model: PreTrainedModel, name: str, targets: str | Sequence[str]) -> list[str] | None:
    if targets == "auto":
        return None if name in OWN_TARGETS else [s.name for s in select(model, ALL_LINEAR)]
    wanted = [targets] if isinstance(targets, str) else list(targets)
    found: list[str] = []
    for target in wanted:
        named = [n for n, _ in base_modules(model) if n == target or n.endswith("." + target)]
        found += named or [s.name for s in select(model, target)]
    return list(dict.fromkeys(found))


def _parts(model: PreTrainedModel, name: str, settings: Any, seed: int) -> Parts:
    peft = _library()
    refuse_on_few_bits(model, PEFT + name, name in ON_4_BITS)
    before = dict(model.named_modules())
    flags = [(p, p.requires_grad) for p in model.parameters()]
    state = set(vars(model))
    try:
        with torch.random.fork_rng(devices=[]), _quiet(), _as_user_error(PEFT + name):
            torch.manual_seed(seed)
            wrapped = peft.get_peft_model(model, settings)
    finally:
        layers = _take_out(model, before)
        for key in set(vars(model)) - state:
            delattr(model, key)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    bridge = Bridge(name, wrapped, layers)
    known = {site.name: site for site in sites(model)}
    placed = []
    for place, layer in layers.items():
        host = before[place]
        placed.append(Placed(known.get(place) or Site(place, "linear", host, None), PeftAdapter(host, layer, bridge)))
    return Parts(placed=tuple(placed))


def _take_out(model: PreTrainedModel, before: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Put the model's own modules back, and return what `peft` had put in their place.

    Raises:
        UserError: It had done more than that.
    """
    changed = [n for n, m in before.items() if n and _get(model, n) is not m]
    outer = [n for n in changed if not any(n.startswith(o + ".") for o in changed)]
    layers = {n: model.get_submodule(n) for n in outer}
    for name in outer:
        _put(model, name, before[name])
    strange = [n for n, layer in layers.items() if layer._modules.get("base_layer") is not before[n]]
    strange += [n for n, _ in model.named_modules() if n not in before]
    if strange:
        raise UserError(
            f"`peft` changes `{strange[0]}` in a way that cannot be undone",
            where="adapter.method",
            fix="use another method, or train with `peft` itself",
        )
    return layers


def _get(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    model.get_submodule(parent)._modules[last] = module


def _freeze(layer: nn.Module) -> None:
    """Keep what a method does not train as buffers, so that a set's parameters are those that it trains."""
    for module in layer.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and not parameter.requires_grad:
                del module._parameters[name]
                module.register_buffer(name, parameter.data)


def _bridge_of(placed: Sequence[Placed]) -> Bridge:
    adapter = placed[0].adapter
    assert isinstance(adapter, PeftAdapter)
    return adapter.bridge


def write(folder: Path, config: MethodConfig, placed: tuple[Placed, ...], base_path: str | None) -> None:
    """Write a set through `peft`'s own functions."""
    peft, bridge = _library(), _bridge_of(placed)
    with bridge.with_layers() as model:
        tensors = peft.get_peft_model_state_dict(model, adapter_name=SET, save_embedding_layers=False)
        settings = copy.copy(model.peft_config[SET])
    settings.base_model_name_or_path, settings.inference_mode = base_path, True
    settings.save_pretrained(str(folder))
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomic(folder / WEIGHTS, save_tensors(plain, metadata={"format": "pt"}))


def read(
    model: PreTrainedModel, values: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[MethodConfig, Parts]:
    """Read a set through `peft`'s own functions; nothing may be missing or left over.

    Raises:
        UserError: A tensor is missing, unexpected or of another shape.
    """
    peft, name = _library(), str(values.get("peft_type"))
    cls = _kinds()[name]
    given = {
        k: v for k, v in values.items() if k in cls.__dataclass_fields__ and k not in ("peft_type", "auto_mapping")
    }
    with _as_user_error(PEFT + name, CONFIG):
        settings = cls(**given)
        settings.inference_mode = False
    parts = _parts(model, name, settings, 0)
    bridge = _bridge_of(parts.placed)
    with bridge.with_layers() as wrapped, _as_user_error(PEFT + name, WEIGHTS):
        wanted = peft.get_peft_model_state_dict(wrapped, adapter_name=SET, save_embedding_layers=False)
        _refuse_difference(name, {k.removeprefix(PREFIX): v for k, v in wanted.items()}, tensors)
        peft.set_peft_model_state_dict(wrapped, {_with_prefix(k): v for k, v in tensors.items()}, adapter_name=SET)
    plain = cls()
    kept = {k: v for k, v in given.items() if k not in BOOKKEEPING and k in vars(plain) and getattr(plain, k) != v}
    targets = tuple(item.site.name for item in parts.placed)
    return PeftBridgeConfig(method=PEFT + name, targets=targets, options=kept), parts


def _with_prefix(name: str) -> str:
    return name if name.startswith(OUTSIDE) else PREFIX + name


def _refuse_difference(method: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    fix = "load it onto the base that it was trained on, or save it again"
    if missing or unexpected:
        kind, first = ("missing", missing[0]) if missing else ("unexpected", unexpected[0])
        what = f"for `{PEFT}{method}` {len(missing or unexpected)} tensors are {kind}, such as `{first}`"
        raise UserError(what, where=WEIGHTS, fix=fix)
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape:
            shapes = f"{tuple(found[name].shape)}, this model needs {tuple(tensor.shape)}"
            raise UserError(f"the adapter belongs to another base: `{name}` is {shapes}", where=WEIGHTS, fix=fix)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, and none of the progress bars that some methods show."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _as_user_error(method: str, where: str = "adapter") -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a library of forty methods refuses in many ways
        text = " ".join(str(error).split()) or type(error).__name__
        fix = "set `adapter.options` or `adapter.targets` so that it fits"
        raise UserError(f"`{method}` is refused by `peft`: {text[:300]}", where=where, fix=fix) from error


@METHODS.family(PEFT)
def entry(method: str) -> Method:
    """The entry of the table of methods for ``peft:NAME``.

    Raises:
        UserError: `peft` is missing, has no such method, or has one that cannot be used this way.
    """
    name = method.removeprefix(PEFT)
    own = next((m for m in METHODS if METHODS[m].peft_type == name), None)
    if own is not None:
        raise UserError(
            f"`{method}` is one of Burnish's own methods", where="adapter.method", fix=f"use `method: {own}`"
        )
    if name in UNSUITED:
        fix = "use one of Burnish's own methods, or train with `peft` itself"
        raise UserError(f"`{method}` cannot be used here: {UNSUITED[name]}", where="adapter.method", fix=fix)
    known = _kinds()
    if name not in known:
        raise UserError(f"`peft` has no method `{name}`", where="adapter.method", fix=suggestion(name, known))
    rate, reason = RATES.get(name, RATE)
    return Method(
        method,
        PeftBridgeConfig,
        build,
        learning_rate=rate,
        reason=reason,
        identity=name not in NOT_IDENTITY,
        format="peft",
        peft_type=name,
        from_peft=read,
        write_peft=write,
    )


def _kinds() -> dict[str, Any]:
    """The configuration classes of the installed `peft` that can be used, by the name of their method."""
    found = {str(kind.value): cls for kind, cls in _library().mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    own = {METHODS[name].peft_type for name in METHODS}
    return {n: c for n, c in sorted(found.items()) if n not in UNSUITED and n not in own}


def _library() -> Any:
    try:
        with warnings.catch_warnings(), no_notes():
            warnings.simplefilter("ignore")
            import peft
    except ImportError as error:
        raise UserError(
            "methods of the library peft need it, and it is not installed",
            where="adapter.method",
            fix="pip install 'burnish[peft]', or use one of Burnish's own methods",
        ) from error
    return peft
