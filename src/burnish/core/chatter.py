"""Keeps the notes of libraries off standard output, where a program reads what `--json` says."""

from __future__ import annotations

import logging


def keep_deepspeed_quiet() -> None:
    """Let DeepSpeed write errors only: its notes go to standard output.

    `transformers` imports it, if it is installed, as soon as a model is saved. Its logger takes its level when it is
    imported; a filter stays.
    """
    logging.getLogger("DeepSpeed").addFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
