"""Pages of a comparison, each one file that needs nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


def coded(words: str) -> Markup:
    """Words as HTML, with what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(words))))


_TEMPLATES.filters["coded"] = coded


def filled(template: str, **values: Any) -> str:
    """A template of this room as text; every value is escaped that is no ``Markup``.

    Args:
        template: Its file name.
        values: By name; ``title``, ``subject`` and ``verdict``, a list of sentences, stand on every page.
    """
    return _TEMPLATES.get_template(template).render(values)
