"""What the loss of one update is made of, term by term, for the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from burnish.core.types import Mean

PART = "loss."
"""Put before the name of a term where the log holds its share of the loss."""


@dataclass(frozen=True)
class Parts:
    """Sums over the micro-batches of one update.

    Attributes:
        shares: The weighed loss of each term, by its name; they add up to the loss of the update.
        means: What terms measured on the way, by ``TERM_NAME``.
    """

    shares: dict[str, float] = field(default_factory=dict)
    means: dict[str, Mean] = field(default_factory=dict)

    def add(self, name: str, share: Tensor, metrics: Mapping[str, Mean]) -> None:
        """Count in what a term came to."""
        self.shares[name] = self.shares.get(name, 0.0) + float(share.detach())
        for metric, mean in metrics.items():
            if mean.count:
                key = f"{name}_{metric}"
                self.means[key] = self.means.get(key, Mean(0.0, 0.0)) + mean

    def named(self) -> dict[str, float]:
        """For the log."""
        shares = {PART + name: value for name, value in self.shares.items()}
        return {**shares, **{name: mean.value for name, mean in self.means.items()}}
