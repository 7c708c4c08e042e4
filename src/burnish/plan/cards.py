"""What common GPUs have: memory, arithmetic, bandwidth, from their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from burnish.core.errors import UserError
from burnish.core.names import suggestion


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        name: What it is called.
        gib: Memory in GiB.
        teraflops: Dense bf16 products with sums in fp32 (fp16 where it has no bf16), in TFLOP/s.
        gigabytes: Bandwidth of its memory, GB/s.
    """

    name: str
    gib: float
    teraflops: float
    gigabytes: float

    @property
    def memory(self) -> int:
        """Its memory in bytes."""
        return int(self.gib * (1 << 30))


CARDS: tuple[Card, ...] = (
    Card("RTX 3060", 12, 25.6, 360),
    Card("T4", 15, 65, 320),
    Card("RTX 4080", 16, 97.5, 717),
    Card("L4", 22.5, 121, 300),
    Card("A10", 22.5, 125, 600),
    Card("RTX 3090", 24, 71, 936),
    Card("RTX 4090", 24, 165, 1008),
    Card("RTX 5090", 32, 210, 1792),
    Card("V100", 32, 125, 900),
    Card("A100 40GB", 40, 312, 1555),
    Card("L40S", 45, 362, 864),
    Card("RTX 6000 Ada", 48, 364, 960),
    Card("A100 80GB", 80, 312, 2039),
    Card("H100", 80, 989, 3350),
    Card("H200", 141, 989, 4800),
    Card("B200", 180, 2250, 8000),
    Card("MI300X", 192, 1307, 5300),
)
"""From the smallest memory to the largest."""


def card_of(name: str) -> Card:
    """A card by its name, in small letters or large, with or without spaces.

    Raises:
        UserError: There is none of that name.
    """
    by_name = {_plain(card.name): card for card in CARDS}
    if _plain(name) not in by_name:
        raise UserError(f"no card is known as `{name}`", where="--card", fix=suggestion(name, [c.name for c in CARDS]))
    return by_name[_plain(name)]


def _plain(name: str) -> str:
    return name.casefold().replace(" ", "").replace("-", "")
