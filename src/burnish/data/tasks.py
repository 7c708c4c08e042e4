"""What differs between learning text and telling classes apart; the passes over the rows are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from burnish.core.findings import Finding
from burnish.data.config import ChatMode, RenderConfig, SourceConfig
from burnish.data.context import answers_in_context
from burnish.data.example import Example
from burnish.data.formats import Plan, plan_source
from burnish.data.labelled import (
    Classes,
    LabelledRenderer,
    absent_findings,
    class_counts,
    class_findings,
    plan_labelled,
    recheck_labelled,
    settle_labels,
)
from burnish.data.recheck import recheck
from burnish.data.render import Kind, Rendered, Renderer
from burnish.data.rows import Read
from burnish.data.splits import Values
from burnish.data.table import TokenTable

Sample = Sequence[tuple[Example, Rendered]]


class Task(Protocol):
    """The places at which the preparation asks what is learnt."""

    @property
    def asked(self) -> list[str] | None:
        """The classes that the recipe lists, none if they are to be found; None to learn text."""

    def label_of(self, example: Example) -> str:
        """The name of an example's class, or whatever `settle` needs to know of it."""

    def plan(self, source: SourceConfig, read: Read, chat: ChatMode) -> Plan:
        """How the rows of a source are read."""

    def settle(self, labels: Mapping[str, Values]) -> tuple[str, ...]:
        """The names of the classes, from the labels of the rows of each split."""

    def renderer(
        self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig, kind: Kind, labels: tuple[str, ...]
    ) -> Renderer:
        """What makes tokens of the rows."""

    def look_again(self, name: str, sample: Sample, renderer: Renderer) -> list[Finding]:
        """What is wrong with some rendered rows of a split."""

    def describe(
        self, splits: Mapping[str, dict[str, Any]], tables: Mapping[str, TokenTable], labels: tuple[str, ...]
    ) -> list[Finding]:
        """Complete the summaries of the splits, and say what there is to say."""


class TextTask:
    """Learns text."""

    asked = None

    def label_of(self, example: Example) -> str:
        """No class."""
        return ""

    def plan(self, source: SourceConfig, read: Read, chat: ChatMode) -> Plan:
        """How the rows of a source are read."""
        return plan_source(source, read.columns, read.first, chat)

    def settle(self, labels: Mapping[str, Values]) -> tuple[str, ...]:
        """No classes."""
        return ()

    def renderer(
        self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig, kind: Kind, labels: tuple[str, ...]
    ) -> Renderer:
        """Prompts with targets, conversations and plain text as tokens with a mask."""
        return Renderer(tokenizer, config, kind)

    def look_again(self, name: str, sample: Sample, renderer: Renderer) -> list[Finding]:
        """Masks that do not fit their examples."""
        return [*recheck(name, sample, renderer.tokenizer, renderer.config), *answers_in_context(name, sample)]

    def describe(
        self, splits: Mapping[str, dict[str, Any]], tables: Mapping[str, TokenTable], labels: tuple[str, ...]
    ) -> list[Finding]:
        """Nothing to add."""
        return []


@dataclass(frozen=True)
class ClassTask:
    """Tells classes apart.

    Attributes:
        classes: What the recipe asks for.
    """

    classes: Classes

    @property
    def asked(self) -> list[str]:
        """The classes that the recipe lists, in their order."""
        return list(self.classes.labels)

    def label_of(self, example: Example) -> str:
        """The name of an example's class."""
        return example.label

    def plan(self, source: SourceConfig, read: Read, chat: ChatMode) -> Plan:
        """Which columns hold text and label."""
        return plan_labelled(source, list(read.columns))

    def settle(self, labels: Mapping[str, Values]) -> tuple[str, ...]:
        """The names of the classes, given or found."""
        return settle_labels(self.classes, labels)

    def renderer(
        self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig, kind: Kind, labels: tuple[str, ...]
    ) -> Renderer:
        """Texts as the tokenizer frames them, each with the number of its class."""
        return LabelledRenderer(tokenizer, config, labels)

    def look_again(self, name: str, sample: Sample, renderer: Renderer) -> list[Finding]:
        """Texts and classes that are not the example's."""
        assert isinstance(renderer, LabelledRenderer)
        return recheck_labelled(name, sample, renderer)

    def describe(
        self, splits: Mapping[str, dict[str, Any]], tables: Mapping[str, TokenTable], labels: tuple[str, ...]
    ) -> list[Finding]:
        """Count the classes of each split, and name that of each row that is shown."""
        for name, table in tables.items():
            splits[name]["classes"] = class_counts(labels, table.labels)
            for shown, number in zip(splits[name]["shown"], table.labels, strict=False):
                shown["label"] = labels[number]
        found = class_findings(labels, splits["train"]["classes"], given=bool(self.classes.labels))
        return [*found, *absent_findings(splits)]
