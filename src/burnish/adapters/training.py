"""What methods ask of training beyond parameters: initial values from rows, terms, a look at gradients, buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from burnish.adapters.attach import Attached
from burnish.adapters.base import METHODS, RESERVED, Adapter, Method, MethodConfig, Placed, Sample
from burnish.core.types import Term


def each(attached: Attached) -> Iterator[tuple[Method, MethodConfig, tuple[Placed, ...]]]:
    """The methods of a set with their configurations and adapters."""
    for config, parts in zip(attached.configs, attached._parts, strict=True):
        yield METHODS[config.method], config, parts.placed


def prepare(attached: Attached, sample: Sample, seed: int) -> bool:
    """Set initial values from training rows where a method wants that; whether one did."""
    wanted = [item for item in each(attached) if item[0].prepare is not None]
    for method, config, placed in wanted:
        assert method.prepare is not None
        method.prepare(config, placed, sample, seed)
    return bool(wanted)


def terms(attached: Attached) -> list[Term]:
    """Further terms of the objective."""
    return [t for method, config, placed in each(attached) if method.terms for t in method.terms(config, placed)]


def observe(attached: Attached, step: int, total_steps: int) -> None:
    """Show every method the update that was just made."""
    for method, config, placed in each(attached):
        if method.observe is not None:
            method.observe(config, placed, step, total_steps)


def buffers(attached: Attached) -> list[tuple[str, Tensor]]:
    """Names and tensors that adapters remember and do not train, named as parameters are."""
    found = []
    for key, (_, _, placed) in zip(attached.keys, each(attached), strict=True):
        for item in placed:
            prefix = f"{item.site.name}.{RESERVED}.{attached.name}.{key}."
            state = item.adapter.state_dict(keep_vars=True)
            found += [(prefix + n, t) for n, t in state.items() if not isinstance(t, nn.Parameter)]
    return found


def handed_over(model: nn.Module, trained: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What saving makes of a checkpoint's trained tensors, by the adapters of a model that was loaded again."""
    result = dict(trained)
    for name, module in model.named_modules():
        if isinstance(module, Adapter) and type(module).handed_over is not Adapter.handed_over:
            mine, own = (
                {k.removeprefix(name + "."): t for k, t in group.items() if k.startswith(name + ".")}
                for group in (trained, kept)
            )
            result |= {f"{name}.{key}": tensor for key, tensor in module.handed_over(mine, own).items()}
    return result
