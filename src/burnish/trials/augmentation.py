"""What each kind of augmentation adds to a recipe, and what it does to the validation score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from burnish.core.errors import UserError
from burnish.core.events import Callback, Stage
from burnish.core.files import read_lines, write_json
from burnish.data.augmenting import entry_names
from burnish.evaluate.config import RetentionConfig
from burnish.train.config import RunConfig
from burnish.train.distributed.refusals import refuse_several_processes
from burnish.train.folder import RunFolder, is_run
from burnish.train.loop import tell
from burnish.train.rescore import describe_score, open_target
from burnish.train.run import start_run
from burnish.trials.paired import Answers, paired_difference, verdict

NONE, ALL = "none", "all together"


@dataclass(frozen=True)
class Trial:
    """One way to augment, over all seeds.

    Attributes:
        name: The entry's name, ``none``, or ``all together``.
        added: New rows, meant over the seeds.
        scores: Macro-F1 on the validation rows, for each seed.
        difference: Macro-F1 with minus without, meant over the seeds.
        low: Lower end of its 95 % interval.
        high: Upper end.
        verdict: ``helps``, ``harms`` or ``no difference shown``; empty for ``none``.
    """

    name: str
    added: float
    scores: tuple[float, ...]
    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0
    verdict: str = ""


@dataclass(frozen=True)
class AugmentationReport:
    """All trials of a recipe.

    Attributes:
        recipe: Its name.
        seeds: The seeds of the runs.
        rows: Validation rows.
        train_rows: Training rows without augmentation.
        updates: Updates of every run.
        trials: The trials, ``none`` first.
    """

    recipe: str
    seeds: tuple[int, ...]
    rows: int
    train_rows: int
    updates: int
    trials: tuple[Trial, ...] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """For ``augmentation.json``."""
        return asdict(self)


def augmentation_report(
    config: RunConfig, seeds: Sequence[int], *, force: bool = False, callbacks: Sequence[Callback] = ()
) -> AugmentationReport:
    """Train a recipe without augmentation, with each of its kinds alone and with all, and compare validation scores.

    Every run has the same split, and as many updates as the one without, so that a difference comes from the rows and
    not from more training. The seeds decide about the choice of rows, their order, the head, dropout and the new rows.

    Args:
        config: A recipe of a classification with `data.augment`.
        seeds: One run of each way for each.
        force: Replace runs of an earlier report; otherwise those that are complete are used as they are.
        callbacks: Told of every run's events.

    Raises:
        UserError: The recipe does not classify, augments nothing, or is refused.
    """
    _refuse_what_cannot_be_compared(config)
    entries = config.data.augment
    ways: dict[str, tuple[Any, ...]] = {NONE: ()}
    ways |= {name: (entry,) for name, entry in zip(entry_names(entries), entries, strict=True)}
    if len(entries) > 1:
        ways[ALL] = tuple(entries)
    answers: dict[str, list[Answers]] = {name: [] for name in ways}
    added: dict[str, list[int]] = {name: [] for name in ways}
    updates = rows = 0
    for seed in seeds:
        updates = 0
        for name, kinds in ways.items():
            tell(callbacks, Stage(f"augmentation: {name}, seed {seed}"))
            folder = _run(config, name, kinds, seed, updates, force, callbacks)
            updates = updates or int(folder.read("model.json")["updates"])
            answers[name].append(_answers(folder))
            data = folder.read("data.json")
            added[name].append(int(data.get("augment", {}).get("added", 0)))
            rows = data["splits"]["train"]["rows"] if name == NONE else rows
    trials = [_trial(name, answers, added, config.seed) for name in ways]
    count = len(answers[NONE][0].true)
    report = AugmentationReport(config.name, tuple(seeds), count, rows, updates, tuple(trials))
    write_json(home(config) / "augmentation.json", report.to_json())
    return report


def home(config: RunConfig) -> Path:
    """The folder of a recipe's trials."""
    return Path(config.output) / f"{config.name}-augmentation"


def table(report: AugmentationReport) -> Table:
    """The report for a person to read."""
    seeds = len(report.seeds)
    title = (
        f"{report.recipe}: {report.train_rows:,} training rows, {report.updates:,} updates in every run, macro-F1 on "
        f"{report.rows:,} validation rows, {seeds} seed{'s' if seeds > 1 else ''}"
    )
    shown = Table("augmentation", "new rows", "macro-F1", "difference", "95 % interval", "", title=title)
    shown.title_justify = "left"
    for trial in report.trials:
        mean = f"{sum(trial.scores) / seeds:.4f}"
        if trial.name == NONE:
            shown.add_row(trial.name, "0", mean, "", "", "")
            continue
        interval = f"{trial.low:+.4f} to {trial.high:+.4f}"
        colour = {"helps": "green", "harms": "red"}.get(trial.verdict, "")
        cells = (Text(trial.name), f"{trial.added:,.0f}", mean, f"{trial.difference:+.4f}", interval)
        shown.add_row(*cells, Text(trial.verdict, style=colour))
    return shown


def _refuse_what_cannot_be_compared(config: RunConfig) -> None:
    refuse_several_processes(config, "this report")
    if not config.data.augment:
        fix = "add some, such as `data: {augment: [swap, spelling]}`"
        raise UserError("the recipe augments nothing", where="data.augment", fix=fix)
    if not config.classifies and not config.evaluate.choices:
        raise UserError(
            "the report compares macro-F1, and this recipe tells no classes apart",
            where="task",
            fix="give `task: classification` or `evaluate.choices`",
        )


def _run(
    config: RunConfig,
    name: str,
    kinds: tuple[Any, ...],
    seed: int,
    updates: int,
    force: bool,
    callbacks: Sequence[Callback],
) -> RunFolder:
    """One run, or an earlier one that is complete."""
    split = config.data.split
    fixed = split.model_copy(update={"seed": split.seed if split.seed is not None else config.seed})
    named = config.model_copy(
        update={
            "name": f"{name.replace(' ', '-')}-seed-{seed}",
            "output": str(home(config)),
            "seed": seed,
            "data": config.data.model_copy(update={"augment": kinds, "split": fixed}),
            "train": config.train.model_copy(update={"max_steps": updates}) if updates else config.train,
            "evaluate": config.evaluate.model_copy(update={"retention": RetentionConfig(sources=())}),
        }
    )
    folder = RunFolder(named.folder)
    if force or not is_run(named.folder) or not folder.read("evaluation.json"):
        start_run(named, force=is_run(named.folder), callbacks=callbacks)
        _score(named)
    elif not (named.folder / "validation.jsonl").is_file():
        _score(named)
    return folder


def _score(config: RunConfig) -> None:
    """Write what the tuned model answers to every validation row."""
    opened = open_target(config, "validation", run=config.folder)
    describe_score(opened, opened.score(), config.folder / "validation.jsonl")


def _answers(folder: RunFolder) -> Answers:
    return Answers.of(read_lines(folder.path / "validation.jsonl"))


def _trial(name: str, answers: dict[str, list[Answers]], added: dict[str, list[int]], seed: int) -> Trial:
    scores = tuple(a.macro_f1 for a in answers[name])
    mean = sum(added[name]) / len(added[name])
    if name == NONE:
        return Trial(name, mean, scores)
    difference, low, high = paired_difference(answers[NONE], answers[name], seed)
    return Trial(name, mean, scores, difference, low, high, verdict(low, high))
