"""What the devices of an engine tell one another in an update.

A ring of N devices sums b bytes in two rounds, in each of which a device sends b (N - 1) / N: first every device gets
the sum of its share (reduce-scatter), then all shares go round (all-gather; Patarasu and Yuan, 2009). With weights W of
which T are trained, gradients G, and m micro-batches in an update, a device sends, times (N - 1) / N,

    ddp             2 G                 the gradients are summed once
    zero1           G + T               each device moves its share of the weights, and tells the others
    zero2           m G + T             shares of gradients are summed as they come
    zero3, fsdp2    m (2 W + G)         weights are gathered forward and backward

(Rajbhandari et al., 2020, section 7); what travels in bf16 counts half. What travels while something is computed costs
no time of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from burnish.plan.engines import Engine
from burnish.plan.footprint import Footprint

_VOLUMES: Mapping[str, Callable[[Footprint, int], int]] = {
    "none": lambda whole, m: 0,
    "ddp": lambda whole, m: 2 * whole.gradients,
    "zero1": lambda whole, m: whole.gradients + _trained(whole),
    "zero2": lambda whole, m: m * whole.gradients + _trained(whole),
    "zero3": lambda whole, m: m * (2 * _weights(whole) + whole.gradients),
    "fsdp2": lambda whole, m: m * (2 * _weights(whole) + whole.gradients),
}


def sent(whole: Footprint, engine: Engine, micro_batches: int = 1) -> int:
    """Bytes that each device sends in an update.

    Args:
        whole: What an undivided run holds.
        engine: How it is divided.
        micro_batches: Of each device.
    """
    if "gradients" in engine.half:
        whole = replace(whole, gradients=whole.gradients // 2)
    if "weights" in engine.half:
        trained, frozen = _trained(whole) // 2, whole.weights - whole.trained_base
        whole = replace(whole, weights=frozen + trained, adapters=0, trained_base=trained)
    return _VOLUMES[engine.name](whole, micro_batches) * (engine.processes - 1) // engine.processes


def _weights(whole: Footprint) -> int:
    return whole.weights + whole.adapters


def _trained(whole: Footprint) -> int:
    return whole.trained_base + whole.adapters
