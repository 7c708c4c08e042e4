"""What the preparation of data has to say, as findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from burnish.core.findings import Finding, Severity
from burnish.data.config import DataConfig, SourceConfig
from burnish.data.duplicates import Duplicates, Leaks
from burnish.data.formats import Plan
from burnish.data.rows import DroppedRows, Read
from burnish.data.tally import Tally

_SHOWN = 20


@dataclass(frozen=True)
class Mark:
    """What a mark on rendered rows means: its finding, with `{rows}` for the count."""

    severity: Severity
    code: str
    what: str
    why: str
    fix: str


ROW_MARKS = {
    "apart": Mark(
        "note",
        "render.split-token",
        "In {rows} a token would have spanned the border between prompt and target, so both were tokenised apart",
        "The model is given exactly the prompt's own tokens when it generates.",
        "Begin completions with the space, and end prompts without it: prompt `Label:`, completion ` good`.",
    ),
    "prompt-differs": Mark(
        "warning",
        "render.generation-prompt-differs",
        "In {rows} the chat template's generation prompt is not what precedes the last target",
        "The model would be asked to speak after another text than the one that it learnt to speak after.",
        "Compare both with `burnish inspect`, or give a `model.chat_template` in which they agree.",
    ),
    "eos-added": Mark(
        "note",
        "render.turn-end-added",
        "In {rows} the chat template ends the last turn without a token, so the EOS token was added",
        "Without an end in the labels a model does not learn to stop.",
        "",
    ),
    "special-text": Mark(
        "warning",
        "render.special-token-in-text",
        "In {rows} the text itself spells a special token of the tokenizer",
        "It is read as that token, and may end a turn or open one in the middle of a text.",
        "Remove it from the data, unless it is meant.",
    ),
    "window": Mark(
        "note",
        "render.windows",
        "{rows} are windows of texts that are longer than a row may be",
        "A long text is read in stretches that overlap by `task.stride` tokens, so that nothing of it is cut off.",
        "",
    ),
    "no-answer-here": Mark(
        "note",
        "render.window-without-answer",
        "{rows} are windows without the answer that their question has; they teach that it is not there",
        "",
        "",
    ),
    "lost-answer": Mark(
        "warning",
        "render.answer-in-no-window",
        "In {rows} the answer lies in no window as a whole, so it cannot be learnt",
        "It is longer than the windows overlap, and is cut by each of them.",
        "Raise `task.stride` or `data.render.max_length`.",
    ),
    "word-without-token": Mark(
        "note",
        "render.word-without-token",
        "In {rows} the tokenizer drops a word altogether, so its tag is not learnt",
        "",
        "",
    ),
    "bos-in-text": Mark(
        "warning",
        "render.bos-in-text",
        "In {rows} the text itself begins with the BOS token, which is not added a second time",
        "Text that was rendered before has probably been saved as data.",
        "Remove it from the data.",
    ),
}


def source_findings(source: SourceConfig, read: Read, plan: Plan) -> list[Finding]:
    """Bad bytes, an assumed split or separator, and columns that a plain-text source leaves aside."""
    found = [Finding("note", "data.source-read", note, where=source.path) for note in read.notes]
    for file in read.files:
        if file.bad_bytes:
            found.append(
                Finding(
                    "warning",
                    "data.bad-bytes",
                    f"{file.bad_bytes:,} undecodable byte sequences in {_count(file.bad_byte_rows, 'line')} "
                    "were replaced by U+FFFD",
                    where=source.path if len(read.files) == 1 else file.path,
                    why="The text there was damaged before it came here, or has another encoding.",
                    fix="Set the source's `encoding` if you know it.",
                    evidence={"sequences": file.bad_bytes, "lines": list(file.bad_byte_lines)},
                )
            )
    unused = [c for c in read.columns if c not in plan.columns]
    if plan.format == "text" and plan.why != "set in the recipe" and set(unused) - {"file", "folder"}:
        found.append(
            Finding(
                "warning",
                "data.unused-columns",
                f"the source is read as plain text, and its columns {', '.join(f'`{c}`' for c in unused)} are not used",
                where=source.path,
                why="Every token of the text is learnt, and nothing else.",
                fix="Give `prompt` and `completion` templates to learn one column from another, or set `format: text`.",
                evidence={"unused": unused},
            )
        )
    return found


def duplicate_findings(name: str, found: Duplicates, config: DataConfig) -> list[Finding]:
    """Copies of rows, and equal prompts with different targets, in one set."""
    findings = []
    if found.n_copies:
        done = "the later ones were dropped" if config.duplicates == "drop" else "they are kept"
        findings.append(
            Finding(
                "note" if config.duplicates == "drop" else "warning",
                "data.duplicates",
                f"{_count(found.n_copies, 'row')} of the {name} data equal an earlier one in prompt and target; "
                f"{done} "
                f"({_count(found.repeated_prompts, 'row')} repeat an earlier prompt)",
                where=f"data.{name}",
                fix="" if config.duplicates == "drop" else "Set `data.duplicates: drop`.",
                evidence={
                    "copies": found.n_copies,
                    "repeated_prompts": found.repeated_prompts,
                    "first": [list(c) for c in found.copies],
                },
            )
        )
    if found.n_conflicts:
        rows = found.conflict_rows
        findings.append(
            Finding(
                "warning",
                "data.conflicting-targets",
                f"{_count(found.n_conflicts, 'prompt')} of the {name} data have several different targets "
                f"({rows} rows); they are kept",
                where=f"data.{name}",
                why="No model can give both answers; if they are classes, this bounds the accuracy.",
                fix="Look at these rows: they are listed in findings.jsonl.",
                evidence={"prompts": found.n_conflicts, "rows": rows, "first": found.conflicts},
            )
        )
    return findings


def leak_finding(part: str, other: str, leaks: Leaks, policy: str) -> Finding:
    """Rows of ``part`` whose prompt is in the held-out set ``other``."""
    severity: Severity = "stop" if policy == "stop" else "note" if policy == "drop" else "warning"
    done = {"drop": f"dropped from {part}", "warn": "kept", "stop": "refused"}[policy]
    return Finding(
        severity,
        "data.leak",
        f"{_count(len(leaks.rows), 'row')} of {part} with a prompt that is in {other} too; {done}",
        where=f"data.{part}",
        why=f"A score on {other} would measure memory." if policy != "drop" else "",
        fix="" if policy == "drop" else "Set `data.on_leak: drop`.",
        evidence={
            "rows": len(leaks.rows),
            "from": part,
            "in": other,
            "first": [list(p) for p in leaks.first],
        },
    )


def render_findings(name: str, tally: Tally, dropped: DroppedRows, config: DataConfig) -> list[Finding]:
    """What happened to the rows of one split when they became tokens."""
    render = config.render
    findings = []
    counts = tally.marks
    for key, mark in ROW_MARKS.items():
        if counts[key]:
            what = mark.what.format(rows=_count(counts[key], "row")) + f" of {name}."
            share = counts[key] / tally.rows
            findings.append(
                Finding(
                    mark.severity, mark.code, what, f"data.{name}", mark.why, mark.fix, _evidence(counts[key], share)
                )
            )
    truncated, lost = tally.truncated, tally.lost_targets
    if truncated:
        share = truncated / tally.rows
        over = share > render.max_truncated_share
        evidence = {**_evidence(truncated, share), "lost_target_tokens": lost, "max_length": render.max_length}
        what = f"{_count(truncated, 'row')} of {name} ({share:.1%}) were cut to {render.max_length} tokens"
        what += f", and {_count(lost, 'target token')} with them" if lost else "; no target token was lost"
        if over:
            what += f"; `max_truncated_share` allows {render.max_truncated_share:.0%}"
        findings.append(
            Finding(
                "stop" if over else "warning" if lost else "note",
                "render.truncated",
                what,
                where=f"data.{name}",
                why="A target that is cut teaches the model to stop in the middle or not at all." if lost else "",
                fix="Raise `data.render.max_length`, or shorten the rows.",
                evidence=evidence,
            )
        )
    return findings + _dropped_finding(name, tally.rows, dropped, render.max_dropped_share)


def _dropped_finding(name: str, kept: int, dropped: DroppedRows, limit: float) -> list[Finding]:
    if not dropped.count:
        return []
    share = dropped.count / (kept + dropped.count)
    why = "; ".join(f"{count} times: {reason}" for reason, count in dropped.reasons.most_common(5))
    over = share > limit
    what = f"{_count(dropped.count, 'row')} of {name} ({share:.1%}) were dropped"
    return [
        Finding(
            "stop" if over else "warning",
            "data.dropped-rows",
            what + (f"; `max_dropped_share` allows {limit:.0%}" if over else ""),
            where=f"data.{name}",
            why=why[:1].upper() + why[1:] + ".",
            fix="Look at the listed rows; raise `data.render.max_dropped_share` if this is meant." if over else "",
            evidence={**_evidence(dropped.count, share), "first": [d.to_json() for d in dropped.first[:_SHOWN]]},
        )
    ]


def _evidence(rows: int, share: float) -> dict[str, Any]:
    return {"rows": rows, "share": round(share, 6)}


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
