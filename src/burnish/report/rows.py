"""The data of a run: where the rows come from, what each step left of them, and how long they are."""

from __future__ import annotations

from typing import Any

from burnish.report.examples import visible
from burnish.report.numbers import DASH, count, number, plural, share
from burnish.report.read import Run, mapping, objects

SPLITS = ("train", "validation", "test")
POINTS = (
    ("min", "least"),
    ("p5", "5 %"),
    ("p25", "25 %"),
    ("p50", "median"),
    ("p75", "75 %"),
    ("p95", "95 %"),
    ("p99", "99 %"),
    ("max", "most"),
)
SHOWN_DROPPED = 20
_OF_TOKENS = ("trained_tokens", "trained_share", "lost_target_tokens")
"""What a classification has nothing of: its target is a class, not tokens."""
_STEPS = {
    "read": "read",
    "convert": "with prompt and target",
    "duplicates": "without exact duplicates",
    "split": "split",
    "leaks": "without rows that are also held out",
    "train_rows": "limited to data.train_rows",
    "render": "as tokens",
}


_CONVERTED = {"classification": "with text and label", "token-classification": "with words and tags"}


def sources(run: Run) -> list[dict[str, Any]]:
    """Each source with its hash, its format and why it was taken for that."""
    found = []
    for source in objects(run.data.get("sources")):
        why = source.get("format_why")
        files = number(source.get("n_files"))
        bad = number(source.get("bad_bytes"))
        notes = [
            f"columns {', '.join(map(str, source['columns_used']))}" if source.get("columns_used") else "",
            f"{count(files)} files" if files is not None and files > 1 else "",
            f"{count(bad)} undecodable bytes in {plural(source.get('bad_byte_rows'), 'line')}" if bad else "",
            f"{plural(source.get('dropped_rows'), 'row')} dropped" if number(source.get("dropped_rows")) else "",
        ]
        found.append(
            {
                "path": visible(source.get("path")),
                "part": str(source.get("part") or DASH),
                "format": str(source.get("format") or DASH),
                "why": str(why or ""),
                "rows": count(source.get("rows")),
                "sha256": str(source.get("sha256") or DASH),
                "notes": "; ".join(note for note in notes if note),
            }
        )
    return found


def present(run: Run) -> list[str]:
    """The splits that hold rows, or held some on the way."""
    steps = objects(run.data.get("steps"))
    table = mapping(run.data.get("splits"))
    return [s for s in SPLITS if number(mapping(table.get(s)).get("rows")) or any(number(x.get(s)) for x in steps)]


def steps(run: Run) -> list[tuple[str, list[str]]]:
    """What each step left of each split."""
    shown = present(run)
    named = (
        {**_STEPS, "convert": _CONVERTED.get(str(run.model.get("task")), "with text and target")}
        if run.classifies
        else _STEPS
    )
    return [
        (named.get(str(step.get("step")), str(step.get("step"))), [count(step.get(name)) for name in shown])
        for step in objects(run.data.get("steps"))
    ]


def split_table(run: Run) -> list[tuple[str, list[str]]]:
    """Facts of each split: a name and one value per split."""
    splits = [mapping(mapping(run.data.get("splits")).get(name)) for name in present(run)]
    lines = (
        ("Rows", "rows", count),
        ("Tokens", "tokens", count),
        ("Trained tokens", "trained_tokens", count),
        ("Share of trained tokens", "trained_share", share),
        ("Rows cut to fit", "truncated_rows", count),
        ("Target tokens lost by it", "lost_target_tokens", count),
        ("Rows dropped", "dropped_rows", count),
    )
    left_out = _OF_TOKENS if run.classifies else ()
    shown = [line for line in lines if line[1] not in left_out]
    return [(label, [form(one.get(key)) for one in splits]) for label, key, form in shown] if splits else []


def classes(run: Run) -> list[tuple[str, list[str]]]:
    """Rows of each class in each split, with their share; empty where there are none."""
    splits = [mapping(mapping(run.data.get("splits")).get(name)) for name in present(run)]
    labels = dict.fromkeys(label for one in splits for label in mapping(one.get("classes")))
    found = []
    for label in labels:
        counts = [(number(mapping(one.get("classes")).get(label)) or 0.0, number(one.get("rows"))) for one in splits]
        found.append((visible(label), [f"{count(n)} ({share(n / total)})" if total else DASH for n, total in counts]))
    return found


def hashes(run: Run) -> list[tuple[str, str]]:
    """The hash of the tokens and masks of each split."""
    splits = mapping(run.data.get("splits"))
    found = [(name, mapping(splits.get(name)).get("sha256")) for name in present(run)]
    return [(name, str(value)) for name, value in found if value]


def lengths(run: Run) -> list[tuple[str, list[str]]]:
    """Percentiles of the tokens of a row, whole and trained."""
    found = []
    for name in present(run):
        split = mapping(mapping(run.data.get("splits")).get(name))
        for key, label in (("lengths", "whole"), ("trained_lengths", "trained")):
            points = mapping(split.get(key))
            if points and not (run.classifies and key == "trained_lengths"):
                shown = name if run.classifies else f"{name}, {label}"
                found.append((shown, [count(points.get(point)) for point, _ in POINTS]))
    return found


def remarks(run: Run) -> list[str]:
    """Duplicates, contradictions and leaks, in sentences."""
    found = []
    for name, one in mapping(run.data.get("duplicates")).items():
        values = {key: number(value) or 0 for key, value in mapping(one).items()}
        if values.get("copies"):
            found.append(f"{plural(values['copies'], 'exact duplicate')} among the rows read for {name}.")
        if values.get("conflicting_prompts"):
            prompts = plural(values["conflicting_prompts"], "prompt")
            found.append(f"{prompts} of {name} with several different targets.")
    for place, total in mapping(run.data.get("leaks")).items():
        part, _, other = str(place).partition(" in ")
        have = "has" if number(total) == 1 else "have"
        found.append(f"{plural(total, 'row')} of {part} {have} the same prompt as a row of {other}.")
    return found


def dropped(run: Run) -> tuple[list[tuple[str, str, str]], str]:
    """The first rows that were left out, and how many there are."""
    rows = objects(run.data.get("dropped"))
    shown = [(str(r.get("split")), visible(r.get("id")), visible(r.get("reason"))) for r in rows[:SHOWN_DROPPED]]
    return shown, plural(run.data.get("n_dropped"), "row") if number(run.data.get("n_dropped")) else ""
