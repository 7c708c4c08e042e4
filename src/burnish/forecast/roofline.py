"""How long updates would take on a card that is not at hand: an estimate from its data sheet, and labelled as one.

A micro-batch takes at least its arithmetic at the card's rate and at least the reading of its weights at the card's
bandwidth (Williams et al., 2009). Training reaches a part of both; what is assumed is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from burnish.forecast.sketch import Sketch
from burnish.forecast.work import Work, work_of
from burnish.plan.cards import Card
from burnish.plan.footprint import Footprint
from burnish.plan.memory import MemoryPlan

REACHED, STREAMED = 0.4, 0.7
"""Shares of a card's arithmetic and of its bandwidth that a training step reaches."""

PASSES = 3
"""How often a micro-batch reads the weights: forward, backward, and what lies between."""


@dataclass(frozen=True)
class CardTime:
    """A card, whether a run fits on it, and the estimated seconds of all updates."""

    card: Card
    peak: int
    fits: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"card": self.card.name, "gib": self.card.gib, "fits": self.fits, "seconds_estimated": self.seconds}


def card_times(sketch: Sketch, whole: Footprint, plan: MemoryPlan, cards: Sequence[Card]) -> list[CardTime]:
    """Every card with the run on it."""
    work = work_of(sketch)
    return [CardTime(c, plan.peak, plan.fits(c.memory), seconds_on(c, work, whole, plan)) for c in cards]


def seconds_on(card: Card, work: Work, whole: Footprint, plan: MemoryPlan) -> float:
    """Seconds of all updates on a card, of each of the devices that share them."""
    arithmetic = work.operations / (card.teraflops * 1e12 * REACHED)
    reading = work.micro_batches * PASSES * whole.weights / (card.gigabytes * 1e9 * STREAMED)
    return max(arithmetic, reading) / plan.engine.processes
