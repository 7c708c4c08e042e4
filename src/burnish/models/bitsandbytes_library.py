"""The library `bitsandbytes`, an optional extra, for weights and moments of few bits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from burnish.core.errors import UserError


def load_bitsandbytes(needed: str, *, where: str, otherwise: str) -> Any:
    """The library.

    Args:
        needed: What needs it, and the verb: ``weights of 4 bits need``.
        where: The setting that asks for it.
        otherwise: What can be done without it.

    Raises:
        UserError: It is not installed, or does not load.
    """
    try:
        with no_notes():
            import bitsandbytes
    except ImportError as error:
        raise UserError(
            f"{needed} the library bitsandbytes, which is not installed",
            where=where,
            fix=f"pip install 'burnish[bitsandbytes]', or {otherwise}",
        ) from error
    except Exception as error:  # its own start can fail in any way where its binary does not fit the machine
        raise UserError(
            f"bitsandbytes is installed and does not load: {error}",
            where=where,
            fix=f"install a version that fits this PyTorch and GPU, or {otherwise}",
        ) from error
    return bitsandbytes


@contextmanager
def no_notes() -> Iterator[None]:
    """Without the library's advice at its start, on kernels that are fetched from the net and not wanted here."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
