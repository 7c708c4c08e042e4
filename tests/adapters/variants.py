"""What the contract is held to: every method as it comes, and variants of a method by name.

A variant is one line: a name and a configuration that is worth a contract of its own.
"""

from __future__ import annotations

from burnish.adapters.base import MethodConfig
from burnish.adapters.lora import LoraConfig
from burnish.adapters.lora_config import InitOptions
from burnish.adapters.registry import METHODS
from burnish.adapters.vera import VeraConfig

VARIANTS: dict[str, MethodConfig] = {
    "lora-dora": LoraConfig(rank=4, dora=True),
    "lora-plus": LoraConfig(rank=4, b_rate_scale=4),
    "lora-patterns": LoraConfig(rank=4, rslora=True, rank_pattern={"attention": 2}, alpha_pattern={"mlp": 5}),
    "lora-gaussian": LoraConfig(rank=4, init="gaussian"),
    "lora-orthogonal": LoraConfig(rank=4, init="orthogonal"),
    "lora-pissa": LoraConfig(rank=4, init="pissa"),
    "lora-pissa-fast": LoraConfig(rank=4, init="pissa", init_options=InitOptions(iterations=2)),
    "lora-pissa-dora": LoraConfig(rank=4, init="pissa", dora=True),
    "lora-olora": LoraConfig(rank=4, init="olora"),
    "lora-eva": LoraConfig(rank=4, init="eva"),
    "vera-small": VeraConfig(rank=8, save_projections=False),
    "lora-ga": LoraConfig(rank=4, init="lora_ga"),
}
"""Further configurations by name."""

ROUNDED = frozenset({"lora-orthogonal"})
"""Cases that start as the base but for the rounding of a product that is zero."""

CASES: dict[str, MethodConfig] = {name: METHODS[name].config(method=name) for name in METHODS} | VARIANTS

READS_BASE = frozenset({"lora-dora", "lora-pissa", "lora-pissa-fast", "lora-pissa-dora", "lora-olora", "lora-ga"})
"""Cases that read the base's weights as numbers, and are refused where those are packed into 4 bits."""


def case(name: str) -> MethodConfig:
    """A case by its name; of the many methods of `peft` the plain configuration."""
    return CASES[name] if name in CASES else METHODS[name].config(method=name)
