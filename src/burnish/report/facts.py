"""What was trained and on what machine: names and values for the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from burnish.report.examples import visible
from burnish.report.metrics import ordered, score
from burnish.report.numbers import DASH, count, decimal, duration, general, number, plural, ranges, share, short, size
from burnish.report.read import Run, mapping, objects
from burnish.report.verdict import main_metric

SEVERITIES = {"stop": 0, "warning": 1, "note": 2}
_ENDINGS = {"completed": "ran to its end", "early-stopping": "stopped early"}
_GENERIC = ("model", "models", "final")
"""Names of folders that say nothing of the model in them; the folder around it does."""
_METHODS = {
    "lora": "LoRA",
    "full": "full tuning",
    "bottleneck": "bottleneck adapters",
    "ia3": "(IA)³",
    "bitfit": "BitFit",
    "norm": "norm tuning",
    "head": "head only",
}


@dataclass(frozen=True)
class Figure:
    """A key figure: its name, its value and what stands below it."""

    label: str
    value: str
    note: str = ""
    main: bool = False


@dataclass(frozen=True)
class SiteRow:
    """The trained sites of one role."""

    role: str
    count: str
    layers: str
    drawing: Markup
    parameters: str
    share: str


def subtitle(run: Run) -> str:
    """Which model was tuned, and how."""
    given = mapping(run.model.get("origin")).get("path") or run.model.get("path") or ""
    parts = str(given).removeprefix("package:").rstrip("/").split("/")
    name = parts[-2] if len(parts) > 1 and parts[-1] in _GENERIC else parts[-1]
    methods = [method_name(one) for one in objects(run.model.get("adapter"))]
    return " · ".join(part for part in (name, *methods) if part)


def method_name(adapter: Mapping[str, Any]) -> str:
    """``LoRA, rank 16``."""
    method = str(adapter.get("method", ""))
    rank = number(adapter.get("rank"))
    return _METHODS.get(method, method) + (f", rank {rank:g}" if rank is not None else "")


def figures(run: Run) -> list[Figure]:
    """The key figures."""
    seconds = run.finished.get("training_seconds", _sum(run, "seconds"))
    found = [
        *_scores(run),
        Figure("Training rows", count(run.train_rows), _tokens(run)),
        Figure("Trained weights", short(run.model.get("trainable")), _of_model(run)),
        Figure("Updates", _progress(run), _ending(run)),
        Figure("Training time", duration(seconds), _speed(run)),
        Figure("Peak memory", size(run.finished.get("peak_memory_bytes")), predicted_memory(run)),
    ]
    return [figure for figure in found if figure.value != DASH]


def predicted_memory(run: Run) -> str:
    """What the plan said before the weights were loaded, beside what came."""
    said = number(mapping(run.plan.get("memory")).get("peak_bytes"))
    came = number(run.finished.get("peak_memory_bytes"))
    if said is None:
        return ""
    return f"predicted {size(said)}" + (f", {said / came - 1:+.0%}" if came else "")


def _scores(run: Run) -> list[Figure]:
    """The main metric and one more."""
    base, tuned = mapping(run.evaluation.get("base")), mapping(run.evaluation.get("tuned"))
    main = main_metric(base, tuned)
    shown = [m for m in ordered(base, tuned) if m.name not in ("perplexity", "stopped")]
    shown = ([main] if main else []) + [m for m in shown if m != main]
    found = []
    for metric in shown[:2]:
        before, after = score(base, metric.name), score(tuned, metric.name)
        latest = after if after.value is not None else before
        note = f"base model {before.text(metric)}" if after.value is not None and before.value is not None else ""
        found.append(Figure(metric.label, latest.text(metric), note, main=metric == main))
    return found


def _tokens(run: Run) -> str:
    train = mapping(mapping(run.data.get("splits")).get("train"))
    if number(train.get("tokens")) is None:
        return ""
    if run.classifies:
        kinds = len(mapping(train.get("classes")))
        return f"{short(train['tokens'])} tokens" + (f", {kinds} classes" if kinds else "")
    return f"{short(train['tokens'])} tokens, {share(train.get('trained_share'))} trained"


def _of_model(run: Run) -> str:
    if number(run.model.get("parameters")) is None:
        return ""
    return f"{share(run.model.get('trainable_share'), 2)} of {short(run.model['parameters'])}"


def _progress(run: Run) -> str:
    done = run.updates is not None and run.step >= run.updates
    return count(run.step) if done or run.updates is None else f"{count(run.step)} of {count(run.updates)}"


def _ending(run: Run) -> str:
    reason = str(run.finished.get("reason", ""))
    best = f"best at {count(run.best_step)}" if run.best_step is not None else ""
    return ", ".join(part for part in (_ENDINGS.get(reason, reason) if run.finished else "not finished", best) if part)


def _speed(run: Run) -> str:
    tokens, seconds = _sum(run, "tokens"), _sum(run, "seconds")
    return f"{count(tokens / seconds)} tokens per second" if tokens and seconds else ""


def _sum(run: Run, key: str) -> float | None:
    values = [v for row in run.train if (v := number(row.get(key))) is not None]
    return sum(values) if values else None


def trained(run: Run) -> list[tuple[str, str, str]]:
    """What was trained: name, value and reason."""
    model, origin = run.model, mapping(run.model.get("origin"))
    precision, rate = mapping(model.get("precision")), mapping(model.get("learning_rate"))
    kind = " · ".join(str(v) for v in (origin.get("class"), model.get("model_type")) if v)
    formats = [f"{precision[k]} {label}" for k, label in _FORMATS.items() if precision.get(k)]
    found = [
        ("Base model", str(origin.get("path") or model.get("path") or DASH), kind),
        ("SHA-256 of its weights", str(origin.get("sha256") or origin.get("commit") or DASH), ""),
        *(("Method", method_name(one), settings(one)) for one in objects(model.get("adapter"))),
        *_head(run),
        ("Trained parameters", count(model.get("trainable")), _of_model(run)),
        ("Learning rate", general(rate.get("value")), str(rate.get("reason") or "")),
        ("Number formats", ", ".join(formats) or DASH, str(precision.get("reason") or "")),
        ("Rows in a batch", str(model.get("layout") or DASH), _LAYOUTS.get(str(model.get("layout")), "")),
        ("Updates", _progress(run), _ending(run)),
        ("Chosen checkpoint" if run.best else "Best so far", *_best(run)),
        ("Handed over", "final/" if run.handed_over else "nothing yet", _contents(run) if run.handed_over else ""),
    ]
    skipped = number(run.finished.get("skipped_steps"))
    if skipped:
        found.append(("Skipped updates", count(skipped), "fp16 gradients overflowed; the loss scale was lowered"))
    return [item for item in found if item[1] != DASH] if model or run.step else []


_POOLING = {
    "cls": "the first token",
    "last": "the last token",
    "mean": "the mean of all tokens",
    "pooler": "the model's own pooler",
    "tokens": "every token",
}
_GIVES = {"token-classification": "tags", "extractive-qa": "ends of an answer"}


def _head(run: Run) -> list[tuple[str, str, str]]:
    """The head beside the model."""
    head = mapping(run.model.get("head"))
    labels = head.get("labels")
    if not isinstance(labels, list):
        return []
    shown = ", ".join(map(visible, labels[:12])) + (" …" if len(labels) > 12 else "")
    number_of = f"{len(labels)} {_GIVES.get(str(head.get('task')), 'classes')}" if len(labels) > 1 else "one number"
    what = f"{number_of}, from {_POOLING.get(str(head.get('pooling')), str(head.get('pooling')))}"
    return [("Head", what, f"{shown}; new, {count(head.get('parameters'))} parameters, trained in fp32")]


_FORMATS = {
    "compute": "products",
    "frozen": "products of frozen matrices in training",
    "weights": "weights at rest",
    "trained": "trained weights",
}
_LAYOUTS = {
    "packed": "laid end to end without padding; none sees another",
    "bucketed": "rows of similar length, padded to the longest",
    "padded": "in their order, padded to the longest",
}


def settings(adapter: Mapping[str, Any]) -> str:
    """A method's other settings, as a recipe would name them."""
    shown = [(k, v) for k, v in adapter.items() if k not in ("method", "rank") and v is not None]
    return ", ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in shown)


def _best(run: Run) -> tuple[str, str]:
    if run.best_step is None:
        return (DASH, "")
    folder = run.best.get("checkpoint")
    place = f"checkpoints/{folder}" if folder else f"step {count(run.best_step)}"
    value = number(run.best.get("value"))
    why = f"validation {run.metric} {decimal(value)}" if value is not None else ""
    return (place, why + (f" at step {count(run.best_step)}" if why and folder else ""))


def _contents(run: Run) -> str:
    methods = {str(one.get("method")) for one in objects(run.model.get("adapter"))}
    head = "its head and its tokenizer" if run.classifies else "its tokenizer"
    if "full" in methods:
        return f"the whole model, with {head}"
    return "the adapter, with the head and the tokenizer" if run.classifies else "the adapter, with the tokenizer"


def site_rows(run: Run) -> list[SiteRow]:
    """The trained sites by role, with the layers that they are in."""
    sites = objects(run.model.get("sites"))
    total = sum(number(s.get("parameters")) or 0 for s in sites)
    last = max((int(n) for s in sites if (n := number(s.get("layer"))) is not None), default=-1)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for site in sites:
        groups.setdefault(str(site.get("role")), []).append(site)
    found = []
    for role, members in groups.items():
        layers = [int(n) for s in members if (n := number(s.get("layer"))) is not None]
        own = sum(number(s.get("parameters")) or 0 for s in members)
        part = share(own / total) if total else DASH
        names = ranges(layers) or DASH
        found.append(SiteRow(role, count(len(members)), names, strip(set(layers), last), count(own), part))
    return found


def strip(layers: set[int], last: int) -> Markup:
    """The layers of a model as a row of cells, the trained ones filled."""
    if last < 0 or last > 400:
        return Markup("")
    step = max(3.0, min(10.0, 240 / (last + 1)))
    cell = Markup('<rect class="{}" x="{:.1f}" y="0" width="{:.1f}" height="12" rx="1.5"/>')
    cells = [cell.format("on" if i in layers else "off", i * step, step - 1.5) for i in range(last + 1)]
    svg = Markup('<svg class="strip" viewBox="0 0 {:.0f} 12" width="{:.0f}" height="12" aria-hidden="true">{}</svg>')
    return svg.format((last + 1) * step, (last + 1) * step, Markup("").join(cells))


def findings(run: Run) -> list[dict[str, str]]:
    """What was noticed, the gravest first; what a resumed run noticed again stands once."""
    keys = ("severity", "what", "where", "why", "fix", "code")
    rows = [{key: str(row.get(key) or "") for key in keys} for row in run.findings]
    once = {tuple(row.values()): row for row in rows}.values()
    return sorted(once, key=lambda row: SEVERITIES.get(row["severity"], 0))


def environment(run: Run) -> list[tuple[str, str]]:
    """Machine and versions."""
    given = run.environment
    features = given.get("cpu_features")
    found = [
        ("Python", str(given.get("python") or DASH)),
        ("System", str(given.get("system") or DASH)),
        ("Device", str(given.get("device") or DASH)),
        ("Threads", count(given.get("threads"))),
        ("Processor features", ", ".join(map(str, features)) if isinstance(features, list) and features else DASH),
        ("Memory", size(given.get("memory_bytes"))),
    ]
    found += [(str(name), str(value or DASH)) for name, value in mapping(given.get("versions")).items()]
    return [item for item in found if item[1] != DASH]


def finding_counts(run: Run) -> str:
    """``1 warning, 3 notes``."""
    rows = findings(run)
    named = [(name, sum(row["severity"] == name for row in rows)) for name in SEVERITIES]
    return ", ".join(plural(total, name) for name, total in named if total)
