"""What a recipe says under `data:`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from burnish.core.config import Config
from burnish.data.augment_config import AugmentEntry

FormatName = Literal[
    "auto",
    "prompt_completion",
    "messages",
    "alpaca",
    "sharegpt",
    "question_answer",
    "text",
    "classification",
    "token_classification",
    "extractive_qa",
    "multi_label",
    "regression",
    "ranking",
]
ChatMode = Literal["auto", "always", "never"]
Amount = Annotated[int, Field(ge=0, strict=True)] | Annotated[float, Field(ge=0.0, lt=1.0)]


class SourceConfig(Config):
    """One place that rows come from, and how its columns are read."""

    path: str = Field(min_length=1)
    """A file, a folder, a pattern such as `data/*.jsonl`, a hub name, or `package:module/inner/path`. A relative path
    starts at the folder of the recipe."""
    split: str | None = None
    """Which split of a data set that has several; without it `train` is taken, and said so."""
    subset: str | None = None
    """Configuration name of a hub data set."""
    revision: str | None = None
    """Commit, tag or branch of a hub data set."""
    format: FormatName = "auto"
    """How the columns are read. `auto` decides by the columns' names and says what it found."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our field to their column, such as `{prompt: question, completion: answer}`, or for a classification
    `{text: tweet, label: sentiment}`."""
    prompt: str | None = None
    """Template of the prompt over the columns: `"Classify: {text}\\nLabel:"`. A literal brace is written twice. Of a
    classification it makes the text."""
    completion: str | None = None
    """Template of the completion over the columns: `" {label}"`. Of a classification it makes the label."""
    system: str | None = None
    """System message for conversations that have none of their own."""
    txt_rows: Literal["auto", "line", "paragraph", "file"] = "auto"
    """What a row of a text file is. `auto`: a line of a single file, a whole file of a folder or pattern."""
    encoding: str = "utf-8"
    """Character encoding of text files; a byte order mark in the file wins."""
    on_bad_bytes: Literal["error", "replace"] = "error"
    """What to do with bytes that the encoding does not allow: refuse, or put U+FFFD in their place and count them."""
    limit: int | None = Field(None, ge=1)
    """Read only the first so many rows."""
    task: str | None = Field(None, min_length=1, max_length=60)
    """The task of its rows: for entries of `adapter` that are for some tasks only, and in a classification for heads
    with classes of their own."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            b"".decode(value)
        except LookupError:
            raise ValueError(f"unknown encoding {value!r}; usual ones are utf-8, cp1252, latin-1") from None
        return value

    @model_validator(mode="after")
    def _templates_in_pairs(self) -> SourceConfig:
        if (self.prompt is not None or self.completion is not None) and self.format not in {
            "auto",
            "prompt_completion",
            "classification",
        }:
            raise ValueError(f"`prompt` and `completion` templates contradict format `{self.format}`")
        return self


class SplitConfig(Config):
    """How evaluation rows are held out of the training source."""

    validation: Amount = 0.05
    """Rows (an integer) or share (a fraction below 1) held out for validation, unless `data.validation` is given."""
    test: Amount = 0
    """Rows or share held out for the test, unless `data.test` is given."""
    group: str | None = None
    """Column whose equal values stay together in one split, such as an author or a document."""
    stratify: str | None = None
    """Column whose values get the same shares in every split, such as the label."""
    seed: int | None = Field(None, ge=0)
    """Seed of the split; the run's seed if absent. Set it to keep the same test rows over several runs."""

    @model_validator(mode="after")
    def _one_rule(self) -> SplitConfig:
        if self.group and self.stratify:
            raise ValueError("`group` and `stratify` cannot both hold; give one")
        return self


class RenderConfig(Config):
    """How an example becomes tokens, and which of them carry loss."""

    max_length: int = Field(1024, ge=2)
    """Longest row in tokens (of an encoder-decoder: longest input, and longest target)."""
    on_too_long: Literal["truncate", "drop", "error"] = "truncate"
    """A longer row is cut so that its target stays, dropped, or refused."""
    train_on: Literal["completion", "last", "all"] = "completion"
    """Tokens with loss: the completion or every assistant turn; the last assistant turn only; every token."""
    chat: ChatMode = "auto"
    """Use of the chat template. `auto`: conversations only; `always`: prompts with completions and Alpaca rows too;
    `never`: conversations are refused."""
    max_truncated_share: float = Field(0.5, ge=0.0, le=1.0)
    """Stop if a larger share of a split's rows is cut."""
    max_dropped_share: float = Field(0.1, ge=0.0, le=1.0)
    """Stop if a larger share of the rows is dropped for lack of a target or for length."""


class DataConfig(Config):
    """The data of a run: where rows come from, how they are split, rendered and cleaned of duplicates."""

    train: SourceConfig | list[SourceConfig]
    """Training rows: a source, a path, or a list of them."""
    validation: SourceConfig | None = None
    """Validation rows, if they are not held out of the training source."""
    test: SourceConfig | None = None
    """Test rows, if they are not held out of the training source."""
    split: SplitConfig = Field(default_factory=SplitConfig)
    """How evaluation rows are held out."""
    render: RenderConfig = Field(default_factory=RenderConfig)
    """How examples become tokens."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Rows whose prompt and completion equal an earlier row's."""
    on_leak: Literal["drop", "warn", "stop"] = "drop"
    """Training rows whose prompt is in an evaluation set too: dropped from training, reported, or refused."""
    shuffle: bool = True
    """Draw the training rows in a new seeded order in every epoch."""
    train_rows: int | None = Field(None, ge=1)
    """Train on a seeded choice of so many rows. A smaller choice is part of a larger one."""
    augment: tuple[AugmentEntry, ...] = ()
    """New training rows made of those that there are, after the split; a list of kinds, such as `[{kind: swap}]`."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that sources name, sorted; a row's task is kept as its number among them."""
        sources = [*self.train_sources, *(s for s in (self.validation, self.test) if s is not None)]
        return tuple(sorted({source.task for source in sources if source.task is not None}))

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _bare_paths(cls, value: Any) -> Any:
        if isinstance(value, list):
            if not value:
                raise ValueError("the list of sources is empty")
            return [{"path": v} if isinstance(v, str) else v for v in value]
        return {"path": value} if isinstance(value, str) else value

    @field_validator("augment", mode="before")
    @classmethod
    def _bare_kinds(cls, value: Any) -> Any:
        entries = [value] if isinstance(value, (str, dict)) else value
        return [{"kind": v} if isinstance(v, str) else v for v in entries] if isinstance(entries, list) else value

    @model_validator(mode="after")
    def _no_contradiction(self) -> DataConfig:
        for name in ("validation", "test"):
            if getattr(self, name) is not None and name in self.split.model_fields_set and getattr(self.split, name):
                raise ValueError(f"`data.{name}` and `data.split.{name}` contradict each other; give one")
        return self

    @property
    def train_sources(self) -> list[SourceConfig]:
        """The training sources as a list."""
        return self.train if isinstance(self.train, list) else [self.train]
