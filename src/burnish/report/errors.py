"""The page of a model's errors: sort, filter and mark rows, and take the marks away as corrected data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from burnish.core.files import finite, write_atomic
from burnish.report.examples import visible
from burnish.report.numbers import count, p_equation, plural, share
from burnish.report.page import HERE, content_hash
from burnish.train.error_files import as_csv
from burnish.train.errors import Errors

PAGE, TABLE = "errors.html", "errors.csv"
WORDS: Mapping[str, str] = {
    "true class": "Rows whose class is “{}”",
    "predicted class": "Rows answered “{}”",
    "length": "Rows of {}",
    "rare words": "Rows with {}",
    "language": "Rows whose language is {}",
    "source": "Rows from {}",
    "task": "Rows of the task “{}”",
    "meaning": "Rows alike to the model, {}",
}
TEXT_FORMS = frozenset(
    ("negation", "question", "exclamation", "link", "mention", "hashtag", "digits", "emoticon", "capitals")
)


def write_errors(errors: Errors, name: str, folder: Path) -> tuple[Path, Path]:
    """Write ``errors.csv`` and ``errors.html`` into a folder, whole or not at all, and return their paths.

    Args:
        errors: The analysis.
        name: What the page calls the model.
        folder: Where; it is made if it is missing.
    """
    rows = list(errors.rows())
    table, page = folder / TABLE, folder / PAGE
    write_atomic(table, as_csv(rows))
    write_atomic(page, render_errors(errors.to_json(), rows, name).encode("utf-8", "replace"))
    return table, page


def render_errors(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """The page as text. Every text of the data is escaped; it is the text of strangers.

    Args:
        found: ``Errors.to_json``.
        rows: ``Errors.rows``.
        name: What the page calls the model.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    script = (HERE / "errors.js").read_text(encoding="utf-8")
    style = "\n".join((HERE / f).read_text(encoding="utf-8") for f in ("page.css", "errors.css"))
    return environment.get_template("errors.html.j2").render(
        name=name,
        found=found,
        sentence=sentence(found),
        slices_sentence=slices_sentence(found),
        significant=[_told(one) for one in found["significant"]],
        pairs=[_pair(one, found["pairs"][0]["rows"]) for one in found["pairs"][:12]],
        more_pairs=max(0, len(found["pairs"]) - 12),
        groups=[(trait, [_told(one) for one in _ordered(trait, values)]) for trait, values in found["groups"].items()],
        doubts=count(found["label_errors"]),
        data=_data(found, rows, name),
        style=Markup(style),
        script=Markup(script),
        script_hash=content_hash(script),
        split={"test": "held-out test", "validation": "validation"}.get(found["split"], found["split"]),
    )


def sentence(found: Mapping[str, Any]) -> str:
    """How many rows are wrong."""
    kind = {"test": "held-out test ", "validation": "validation "}.get(found["split"], found["split"] + " ")
    low, high = found["interval"]
    wrong, rows = found["errors"], found["rows"]
    if not wrong:
        return f"None of the {count(rows)} {kind}rows is wrong (95 % interval: up to {share(high)})."
    verb = "is" if wrong == 1 else "are"
    return (
        f"{count(wrong)} of {count(rows)} {kind}rows {verb} wrong: {share(wrong / rows)} "
        f"(95 % interval {share(low)} to {share(high)})."
    )


def slices_sentence(found: Mapping[str, Any]) -> str:
    """Whether any slice stands out, and out of how many."""
    tested = f"{plural(found['tested'], 'slice')} of at least {found['smallest']} rows"
    correction = "corrected for their number (Holm)"
    several = len(found["significant"])
    if not several:
        return f"No slice has significantly more errors than the rest: {tested} were tested, {correction}."
    has = "slice has" if several == 1 else "slices have"
    return f"{several} {has} significantly more errors than the rest. {tested} were tested, {correction}."


def in_words(trait: str, value: str) -> str:
    """A slice as a phrase."""
    if trait in TEXT_FORMS:
        return f"Rows whose text {value}"
    return WORDS.get(trait, f"Rows whose {trait} is “{{}}”").format(visible(value))


def _told(one: Mapping[str, Any]) -> dict[str, Any]:
    tested = one["adjusted"] == one["adjusted"] and one["adjusted"] is not None
    return {
        **one,
        "shown": visible(one["value"]),
        "words": in_words(one["trait"], one["value"]),
        "shown_rate": share(one["rate"]),
        "interval": f"{share(one['low'])} to {share(one['high'])}",
        "shown_rest": share(one["rest"]),
        "p": p_equation(one["adjusted"]) if tested else "",
        "significant": tested and one["adjusted"] < 0.05,
        "examples": [{key: visible(text) for key, text in e.items()} for e in one["examples"]],
    }


def _ordered(trait: str, values: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if trait == "length":
        return sorted(values, key=lambda one: int(one["value"].split("–")[0]))
    return sorted(values, key=lambda one: (-one["rate"], -one["rows"]))


def _pair(one: Mapping[str, Any], most: int) -> dict[str, Any]:
    return {**one, "width": f"{one['rows'] / most:.3f}", "share": share(one["rows"] / one["of"])}


def _data(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str) -> Markup:
    """The rows for the script, as JSON that cannot end its own element."""
    value = {"name": name, "split": found["split"], "labels": found["labels"], "rows": finite(list(rows))}
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    escaped = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return Markup(escaped)
