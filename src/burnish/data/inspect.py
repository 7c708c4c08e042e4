"""What `burnish inspect` shows: rows with their trained tokens marked, and what happened to the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import printable
from burnish.data.marking import Span, row_spans
from burnish.data.prepare import Prepared
from burnish.data.streams import SPLITS

OPEN, CLOSE = "⟦", "⟧"  # what marks trained text where there is no colour
_MOST_DROPPED = 20
_MOST_NEW = 2
_INSPECT_STREAM = 0x1A5


@dataclass(frozen=True)
class InspectedRow:
    """A row to look at: its example, its length, its text in trained and other stretches, its class if it has one."""

    id: str
    split: str
    tokens: int
    trained_tokens: int
    spans: list[Span]
    label: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return {
            "id": self.id,
            "split": self.split,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "spans": [s.to_json() for s in self.spans],
        } | ({"label": self.label} if self.label is not None else {})

    @property
    def title(self) -> str:
        """Where it comes from, and what is learnt of it."""
        learnt = f"{self.trained_tokens} of {self.tokens} tokens trained"
        if self.label is not None:
            learnt = f"{self.tokens} tokens, class `{self.label}`"
        return f"{self.split} {self.id} ({learnt})"


@dataclass(frozen=True)
class Inspection:
    """What there is to see: some rows, and the summary of all."""

    rows: list[InspectedRow]
    summary: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return {"rows": [r.to_json() for r in self.rows], "summary": self.summary}


def inspect_rows(
    prepared: Prepared,
    tokenizer: PreTrainedTokenizerBase,
    count: int = 5,
    *,
    split: str = "train",
    seed: int | None = None,
) -> Inspection:
    """Rows of a split, decoded from the very tokens that the model will see.

    Args:
        prepared: The data.
        tokenizer: The model's tokenizer.
        count: How many rows.
        split: Of which split.
        seed: Choose rows at random by this seed; None takes the first ones.
    """
    table = prepared.table(split)
    order = np.arange(len(table))
    if seed is not None:
        order = np.random.default_rng([_INSPECT_STREAM, seed]).permutation(order)
    lengths, trained = table.lengths, table.trained_counts
    labels = getattr(prepared.renderer, "labels", ())
    classes = table.is_labelled and len(labels) > 1
    rows = [
        InspectedRow(
            table.ids[i],
            split,
            int(lengths[i]),
            int(trained[i]),
            row_spans(tokenizer, table, i),
            labels[table.labels[i]] if classes else None,
        )
        for i in (int(i) for i in order[:count])
    ]
    return Inspection(rows, prepared.summary)


def show(inspection: Inspection, console: Console) -> None:
    """Print an inspection. Trained text is green and underlined, or in ⟦…⟧ where the console has no colour."""
    console.print(view(inspection, colour=console.color_system is not None and not console.no_color))


def view(inspection: Inspection, *, colour: bool) -> RenderableType:
    """An inspection as something that rich can print."""
    summary = inspection.summary
    parts: list[RenderableType] = [_sources(summary), _splits(summary)]
    if "classes" in summary["splits"]["train"]:
        parts.append(_classes(summary))
    parts += [_line(f"{s['step']}: " + _counts(s), "dim") for s in summary["steps"]]
    parts += _dropped(summary)
    parts += _new_rows(summary)
    parts += _replayed(summary, colour)
    how = "green and underlined" if colour else f"in {OPEN}…{CLOSE}"
    trains = f"Trained text is {how}."
    if any(row.label is not None for row in inspection.rows):
        trains = "The class of each row is learnt from all of its text, framed as the tokenizer frames it."
    parts.append(_line(f"\n{trains}", ""))
    for row in inspection.rows:
        parts.append(_line(f"\n{row.title}", "bold"))
        parts.append(marked(row.spans, colour=colour))
    return Group(*parts)


def marked(spans: list[Span], *, colour: bool) -> Text:
    """A row's text with the trained stretches marked; control characters are shown, not sent to the terminal."""
    text = Text()
    for span in spans:
        plain = printable(span.text)
        if not span.trained:
            text.append(plain)
        elif colour:
            text.append(plain, style="green underline")
        else:
            text.append(f"{OPEN}{plain}{CLOSE}")
    return text


def _sources(summary: dict[str, Any]) -> Table:
    table = Table(
        "source", "part", "format", "rows", "columns used", "undecodable", title="Sources", title_justify="left"
    )
    for source in summary["sources"]:
        shown = f"{source['format']}: {source['format_why']}"
        bad = f"{source['bad_bytes']:,} in {source['bad_byte_rows']:,} lines" if source["bad_bytes"] else "none"
        cells = (source["path"], source["part"], shown, f"{source['rows']:,}", ", ".join(source["columns_used"]), bad)
        table.add_row(*(Text(str(c)) for c in cells))
    return table


def _splits(summary: dict[str, Any]) -> Table:
    table = Table(
        "split", "rows", "tokens", "trained", "length p5 / p50 / p95 / max", title="Splits", title_justify="left"
    )
    for column in ("cut", "target tokens lost", "dropped"):
        table.add_column(column)
    for name in SPLITS:
        one = summary["splits"][name]
        if not one["rows"]:
            continue
        lengths = " / ".join(str(one["lengths"][p]) for p in ("p5", "p50", "p95", "max"))
        share = f"{one['trained_share']:.1%}" if "classes" not in one else "classes"
        numbers = (one["truncated_rows"], one["lost_target_tokens"], one["dropped_rows"])
        table.add_row(name, f"{one['rows']:,}", f"{one['tokens']:,}", share, lengths, *(f"{n:,}" for n in numbers))
    return table


def _classes(summary: dict[str, Any]) -> Table:
    shown = [name for name in SPLITS if summary["splits"][name]["rows"]]
    table = Table("class", *shown, title="Classes", title_justify="left")
    for label in summary["splits"]["train"]["classes"]:
        counts = [(summary["splits"][name]["classes"][label], summary["splits"][name]["rows"]) for name in shown]
        table.add_row(Text(label), *(f"{n:,} ({n / rows:.1%})" for n, rows in counts))
    return table


def _title(text: str) -> dict[str, Any]:
    return {"title": text, "title_justify": "left"}


def _counts(step: dict[str, Any]) -> str:
    return ", ".join(f"{name} {step[name]:,}" for name in SPLITS)


def _dropped(summary: dict[str, Any]) -> list[RenderableType]:
    if not summary["n_dropped"]:
        return []
    lines: list[RenderableType] = [_line(f"\nDropped rows ({summary['n_dropped']:,}):", "bold")]
    lines += [_line(f"  {d['split']} {d['id']}: {d['reason']}", "") for d in summary["dropped"][:_MOST_DROPPED]]
    more = summary["n_dropped"] - _MOST_DROPPED
    return lines + ([_line(f"  … and {more:,} more, in data.json", "dim")] if more > 0 else [])


def _new_rows(summary: dict[str, Any]) -> list[RenderableType]:
    """What augmentation added: a line for each kind, and some rows beside those that they were made of."""
    if "augment" not in summary:
        return []
    columns = ("kind", "seed", "rows given", "added", "not found", "equal their source", "equal another row")
    table = Table(*columns, **_title("New training rows"))
    parts: list[RenderableType] = [table]
    for kind in summary["augment"]["kinds"]:
        numbers = (kind[name] for name in ("sources", "added", "none", "unchanged", "copies"))
        table.add_row(Text(kind["entry"]), str(kind["settings"]["seed"]), *(f"{n:,}" for n in numbers))
        for row in kind["shown"][:_MOST_NEW]:
            parts.append(_line(f"\n{row['id']}", "bold"))
            parts.append(Text(f"  was  {printable(row['before'])}\n  is   {printable(row['after'])}"))
    return [*parts, Text("")]


def _replayed(summary: dict[str, Any], colour: bool) -> list[RenderableType]:
    """The general rows that are mixed in: a line for each origin, and some rows of it."""
    if "replay" not in summary:
        return []
    replay = summary["replay"]
    first, last = replay["ratio"]
    ratio = f"{first:.1%}" if first == last else f"{first:.1%} falling to {last:.1%}" if first > last else ""
    ratio = ratio or f"{first:.1%} rising to {last:.1%}"
    columns = ("origin", "path", "weight", "rows", "tokens", "trained", "held out")
    table = Table(
        *columns, **_title(f"Replayed rows: {ratio} of the {replay['unit']}, loss times {replay['weight']:g}")
    )
    parts: list[RenderableType] = [Text(""), table]
    for one in replay["parts"]:
        numbers = (one["rows"], one["tokens"], one["trained_tokens"], one["held_out_rows"])
        table.add_row(Text(one["name"]), Text(one["path"]), f"{one['weight']:g}", *(f"{n:,}" for n in numbers))
        for row in one["shown"]:
            parts.append(_line(f"\n{one['name']} {row['id']}", "bold"))
            parts.append(marked([Span(**span) for span in row["spans"]], colour=colour))
    return parts


def _line(text: str, style: str) -> Text:
    return Text(text, style=style)
