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


class ReplaySource(SourceConfig):
    """One place that replayed rows come from."""

    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Its share of the replayed rows, or tokens, beside the weights of the other parts."""


class RampConfig(Config):
    """A ratio that moves along a line over the training."""

    start: float = Field(ge=0, lt=1)
    """The ratio at the first update."""
    end: float = Field(ge=0, lt=1)
    """The ratio at the last update."""


class SelfReplayConfig(Config):
    """The original model's own answers, written once before the training."""

    prompts: str | None = None
    """A text file with one prompt a line; without it prompts that come with Burnish."""
    rows: int = Field(64, ge=1)
    """How many prompts are answered, drawn by the run's seed."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest answer in tokens."""
    temperature: float = Field(0.8, ge=0)
    """Of the sampling. At 0 every answer is the likeliest one."""


class EarlierConfig(Config):
    """Training rows of earlier runs: a replay buffer for tasks that are learnt one after the other."""

    rows: int = Field(200, ge=1)
    """Rows of each run that are kept, at most."""
    choose: Literal["random", "balanced"] = "random"
    """`random`: every row is as likely; `balanced`: the same number of rows of every target, as far as there are."""


class ReplayConfig(Config):
    """General data that is mixed into the training, so that what the model knew is not forgotten.

    An update holds the rows of the task that it holds without replay, and general rows besides."""

    ratio: Annotated[float, Field(gt=0, lt=1)] | RampConfig = 0.1
    """Share of the general rows among all rows that are trained on, such as 0.2; or `{start: 0.5, end: 0.1}` for a line
    over the training. Over an epoch it holds to half a row."""
    unit: Literal["rows", "tokens"] = "rows"
    """What the ratio counts. As `tokens` the last general row of an epoch is cut, so that it holds to the token."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Factor on the replay loss. At 1 a general row moves the weights as much as a row of the task does."""
    source: Literal["general", "self"] | None = None
    """`general`: short texts that come with Burnish; `self`: the original model's own answers to general prompts.
    Without it `general`, unless `path` or `runs` are given."""
    path: tuple[ReplaySource, ...] = ()
    """General data of your own: a source as in `data.train`, or a list of them. Plain texts are learnt in every token,
    conversations and completions in their answers."""
    runs: tuple[str, ...] = ()
    """Folders of earlier runs whose training rows are replayed."""
    earlier: EarlierConfig = EarlierConfig()
    """How rows of `runs` are chosen."""
    own: SelfReplayConfig = SelfReplayConfig()
    """How the model's own answers are made."""

    @field_validator("path", mode="before")
    @classmethod
    def _bare_paths(cls, value: Any) -> Any:
        given = [value] if isinstance(value, (str, dict)) else value
        return [{"path": v} if isinstance(v, str) else v for v in given] if isinstance(given, (list, tuple)) else given

    @field_validator("runs", mode="before")
    @classmethod
    def _bare_run(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _something_to_replay(self) -> ReplayConfig:
        if isinstance(self.ratio, RampConfig) and not self.ratio.start and not self.ratio.end:
            raise ValueError("`data.replay.ratio` is 0 from start to end; leave `data.replay` out")
        if self.own != SelfReplayConfig() and self.source != "self":
            raise ValueError("`data.replay.own` is for the model's own answers; set `data.replay.source: self`")
        if self.earlier != EarlierConfig() and not self.runs:
            raise ValueError("`data.replay.earlier` is for rows of earlier runs; name them in `data.replay.runs`")
        return self

    @property
    def built_in(self) -> Literal["general", "self"] | None:
        """The part that needs no files of the user's, where there is one."""
        return self.source or (None if self.path or self.runs else "general")

    @property
    def ends(self) -> tuple[float, float]:
        """The ratio at the first and at the last update."""
        return (self.ratio.start, self.ratio.end) if isinstance(self.ratio, RampConfig) else (self.ratio, self.ratio)


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
    replay: ReplayConfig | None = None
    """General data that is mixed into the training against forgetting, such as `{ratio: 0.2}`."""

    @field_validator("replay", mode="before")
    @classmethod
    def _bare_replay(cls, value: Any) -> Any:
        if isinstance(value, float):
            return {"ratio": value}
        return {"path": value} if isinstance(value, str) else value

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
