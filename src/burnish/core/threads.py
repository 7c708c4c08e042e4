"""How the threads of an operation wait for one another; said before PyTorch is loaded, which is when it is read."""

from __future__ import annotations

import os

SPINS = "10000"
"""How often a waiting thread looks before it sleeps: for a third of a millisecond (docs/performance.md)."""


def sleep_sooner() -> None:
    """Let libgomp's threads spin for a third of a millisecond before they sleep, and not for ten.

    A thread whose core another process has taken for a while keeps the others of its operation spinning, each on a core
    that it could run on. Most operations of a training step take no longer, so that little is lost where nobody else
    computes. What the environment says of `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` is left as it is.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
