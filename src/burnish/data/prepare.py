"""The whole way from the recipe's `data:` to token tables: read, convert, clean, split, render.

Rows are read from their files in three passes and never held: the first counts them and finds their columns, the second
keeps two hashes and a name of each, and its label in a classification, from which split, duplicates, leaks and classes
are settled, the third renders those that stay and appends them to tables. The examples of the held-out splits are kept
beside the tables, in memory or in files as these are, without the columns that nothing reads any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.data import cache, digests, kept
from burnish.data.augmenting import Growth, Method
from burnish.data.config import DataConfig
from burnish.data.example import Example
from burnish.data.formats import Converted
from burnish.data.kept import partial_folder
from burnish.data.labelled import Classes
from burnish.data.passes import Preparation
from burnish.data.render import Kind, Renderer
from burnish.data.replay import ReplayRows
from burnish.data.streams import CHUNK, SPLITS, Joined, Opened, Reread
from burnish.data.table import TokenTable
from burnish.data.tasks import ClassTask, Task, TextTask
from burnish.data.writer import Shelf


@dataclass(frozen=True)
class Prepared:
    """The data of a run.

    Attributes:
        train: Rows to learn from.
        validation: Rows to choose by; empty if none were asked for.
        test: Rows to measure on; empty if none were asked for.
        examples: The examples of each split, one per row of its table and in its order. Those of the training split
            are read from their files whenever they are asked for, those of large held-out splits from the disk.
        findings: What there is to say; one of severity ``stop`` refuses the run (`core.findings.refuse_stops`).
        summary: All of it as JSON, for `data.json`.
        renderer: What made the tokens, for prompts that are to look the same.
        augmented: The new rows among those to learn from, which come last; each says where it comes from.
        replay: General rows that are trained on beside them, where the recipe asks for any.
    """

    train: TokenTable
    validation: TokenTable
    test: TokenTable
    examples: Mapping[str, Sequence[Example]]
    findings: list[Finding]
    summary: dict[str, Any]
    renderer: Renderer
    augmented: Sequence[Example] = ()
    replay: ReplayRows | None = None

    def table(self, split: str) -> TokenTable:
        """The table of a split by its name."""
        tables = {"train": self.train, "validation": self.validation, "test": self.test}
        if split not in tables:
            raise UserError(f"there is no split `{split}`", fix="one of: " + ", ".join(f"`{s}`" for s in SPLITS))
        return tables[split]


def prepare(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    seed: int,
    base: Path | None = None,
    *,
    classes: Classes | None = None,
    task: Task | None = None,
    augment: Sequence[Method] = (),
    chunk: int = CHUNK,
    in_memory: int | None = None,
) -> Prepared:
    """Read, convert, clean, split and render the data of a run. Equal arguments and files give equal tables.

    Args:
        config: The recipe's `data:`.
        tokenizer: The model's tokenizer with its chat template.
        kind: ``causal`` or ``seq2seq``.
        seed: The run's seed.
        base: Folder that relative paths start at; the working folder if None.
        classes: What a classification asks for; None to learn text.
        task: What is learnt, where it is neither.
        augment: What makes new training rows, one for each entry of `data.augment`.
        chunk: Rows that are held at a time; it changes nothing else.
        in_memory: Bytes of tables and held-out examples that stay in memory, ``kept.IN_MEMORY`` unless it is given; it
            changes nothing else.

    Raises:
        UserError: A source or a row is wrong (all wrong rows at once), or a set is or becomes empty.
    """
    if len(augment) != len(config.augment):
        raise ValueError(f"`data.augment` has {len(config.augment)} entries, and {len(augment)} methods were given")
    opened = Opened.of(config, base, task or (TextTask() if classes is None else ClassTask(classes)))
    renderer_of = lru_cache(1)(partial(opened.task.renderer, tokenizer, config.render, kind))
    key = cache.key_of(config, tokenizer, kind, seed, opened, [method.fingerprint() for method in augment])
    stored, notes = cache.find(key) if key else (None, [])
    if stored is None:
        with partial_folder() as folder:
            shelf = Shelf(folder, kept.IN_MEMORY if in_memory is None else in_memory)
            stored = Preparation(config, renderer_of, seed, opened, chunk, Growth(augment)).run(shelf)
            if shelf.on_disk and key and cache.keep(stored, folder, key):
                digests.keep(opened.paths)
    streams, new = partial(_chunks_again, opened, chunk), stored.examples.get("augmented", ())
    numbers = stored.tables["train"][1]
    train = Joined(Reread(streams, numbers[: len(numbers) - len(new)]), new) if new else Reread(streams, numbers)
    tables = {name: replace(stored.tables[name][0], task_names=config.tasks) for name in SPLITS}
    return Prepared(
        tables["train"],
        tables["validation"],
        tables["test"],
        examples={**{name: stored.examples[name] for name in SPLITS[1:]}, "train": train},
        findings=[*notes, *stored.findings],
        summary=stored.summary,
        renderer=renderer_of(stored.labels),
        augmented=new,
    )


def _chunks_again(opened: Opened, chunk: int) -> Iterator[Converted]:
    """One more pass over the training examples, of the same files as before."""
    opened.refuse_changes()
    streams = [stream for stream in opened.streams() if stream.part == "train"]
    return chain.from_iterable(stream.chunks(chunk) for stream in streams)
