"""The page of a run: one HTML file that needs nothing else, made from the files of the run folder alone."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from burnish.core.files import write_atomic
from burnish.report import examples, facts, results, rows
from burnish.report.curves import curves
from burnish.report.diagnosis import diagnosis
from burnish.report.read import Run, load_run
from burnish.report.retention import forgetting
from burnish.report.verdict import held_out, verdict

HERE = Path(__file__).parent
NAME = "report.html"


def build_report(run_folder: Path) -> Path:
    """Write ``report.html`` of a run, whole or not at all, and return its path.

    Raises:
        UserError: There is no run in the folder, or the page cannot be written.
    """
    path = Path(run_folder) / NAME
    page = render(load_run(Path(run_folder)))
    write_atomic(path, page.encode("utf-8", "replace"))  # a lone surrogate in someone's text is no reason to fail
    return path


def render(run: Run) -> str:
    """The page as text. Every text of the run is escaped: what a model says may be hostile."""
    loader = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    script = (HERE / "page.js").read_text(encoding="utf-8")
    style = (HERE / "page.css").read_text(encoding="utf-8")
    return loader.get_template("page.html.j2").render(
        **contents(run), style=Markup(style), script=Markup(script), script_hash=content_hash(script)
    )


def contents(run: Run) -> dict[str, Any]:
    """Everything that the template shows."""
    dropped_rows, n_dropped = rows.dropped(run)
    return {
        "run": run,
        "verdict": verdict(run),
        "subtitle": facts.subtitle(run),
        "figures": facts.figures(run),
        "held_out": held_out(run),
        "metrics": results.metric_rows(run),
        "tasks": results.task_parts(run),
        "confusions": results.confusions(run),
        "classes": results.class_rows(run),
        "speed": results.speed(run),
        "calibration": results.calibration(run),
        "forgetting": forgetting(run),
        "charts": curves(run),
        "diagnosis": diagnosis(run),
        "groups": examples.answer_groups(run),
        "samples": examples.samples(run),
        "trained": facts.trained(run),
        "sites": facts.site_rows(run),
        "data": {
            "sources": rows.sources(run),
            "present": rows.present(run),
            "steps": rows.steps(run),
            "splits": rows.split_table(run),
            "classes": rows.classes(run),
            "hashes": rows.hashes(run),
            "lengths": rows.lengths(run),
            "points": [label for _, label in rows.POINTS],
            "remarks": rows.remarks(run),
            "dropped": dropped_rows,
            "n_dropped": n_dropped,
            "marked": examples.marked_rows(run),
        },
        "findings": facts.findings(run),
        "finding_counts": facts.finding_counts(run),
        "environment": facts.environment(run),
        "recipe": examples.visible_whole(run.recipe_text),
    }


def content_hash(script: str) -> str:
    """The name by which the page's security policy knows its one script; no other may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
