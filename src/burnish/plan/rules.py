"""The field's rules of which method suits a situation, as a table; the first one that applies is the prior.

A rule is an expectation from other people's tasks and models, with its source. `burnish recommend` holds it against
short trials on the user's own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from burnish.core.findings import Finding

GIB = 1 << 30
FEW_ROWS = 1000
"""Training rows below which a task counts as one of few rows."""
LARGE = 10 * 10**9
"""Parameters from which on prompt tuning reached full tuning in Lester et al. (2021, figure 1).

The rule of the field names the rows alone. Below this size a prompt was behind the best method in each of ten cases
that were trained to their end (docs/planning.md), as in the source's own figure."""
MOST_CANDIDATES = 5

LORA, BOTTLENECK, PROMPT, HYBRID, FULL, IA3 = "lora", "bottleneck", "prompt", "lora&bottleneck", "full", "ia3"
FOUR_BITS = "+model.quantization=nf4"


@dataclass(frozen=True)
class Situation:
    """What decides about a method.

    Attributes:
        rows: Training rows.
        task: ``text``, ``classification`` or another kind.
        parameters: Of the model.
        updates: Of a run of the recipe.
        peaks: Predicted peak of memory in bytes, by method, with the base as the recipe has it; those that are known.
        limit: Bytes that there are; None where they are not known.
        place: Where.
        tasks: How many tasks are to share one base.
        latency: Whether what a forward pass takes counts.
        stability: Whether it counts that every run comes out alike.
        quantized: Whether the recipe keeps its base in few bits already.
    """

    rows: int
    task: str
    parameters: int
    updates: int = 0
    peaks: Mapping[str, int] = field(default_factory=dict)
    limit: int | None = None
    place: str = "this machine"
    tasks: int = 1
    latency: bool = False
    stability: bool = False
    quantized: bool = False

    @property
    def short(self) -> bool:
        """Whether not even LoRA on the base as it is fits."""
        return not self.fits(LORA)

    def fits(self, method: str) -> bool:
        """Whether a method fits; what is not known is taken to."""
        peak = self.peaks.get(method)
        return peak is None or self.limit is None or peak <= self.limit

    def to_json(self) -> dict[str, Any]:
        """For a file of results."""
        return {**vars(self), "peaks": dict(self.peaks), "memory_is_short": self.short}

    def words(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        peak = self.peaks.get(LORA)
        memory = "not planned"
        if peak is not None and self.limit is not None:
            verdict = "short" if self.short else "enough"
            memory = f"{verdict}: LoRA is predicted to take {peak / GIB:.2f} of {self.limit / GIB:.2f} GiB"
        return [
            ("rows", f"{self.rows:,}"),
            ("task", self.task),
            ("model", f"{self.parameters:,} parameters" + (", in few bits" if self.quantized else "")),
            ("memory", f"{memory} ({self.place})"),
            ("tasks on one base", str(self.tasks)),
            ("latency counts", "yes" if self.latency else "not said"),
            ("stability counts", "yes" if self.stability else "not said"),
        ]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: What the situation is called.
        applies: Whether it is there.
        method: What the rule says, as ``--methods`` of `burnish compare-methods` names it.
        reason: Why.
        source: Who found it.
        caveat: What speaks against it in a situation; empty without anything.
    """

    name: str
    applies: Callable[[Situation], bool]
    method: str
    reason: str
    source: str
    caveat: Callable[[Situation], str] = lambda situation: ""


def _weak_with_few(situation: Situation) -> str:
    return "Gu et al. (2022, arXiv:2109.04332) found a prompt that starts from nothing weak with few rows"


def _quantizing_a_head(situation: Situation) -> str:
    return "" if situation.task == "text" else "the source measured texts that are written, not heads"


RULES: tuple[Rule, ...] = (
    Rule(
        "memory is short",
        lambda s: s.short and not s.quantized,
        LORA + FOUR_BITS,
        "a frozen base of 4 bits takes a quarter of the memory of 16, and LoRA on it kept the quality of 16 bits",
        "Dettmers et al., 2023, QLoRA, arXiv:2305.14314",
        _quantizing_a_head,
    ),
    Rule(
        "several tasks share one base",
        lambda s: s.tasks > 1,
        LORA,
        "the base is stored and loaded once, and each task is a small file that can be exchanged or merged",
        "Hu et al., 2022, LoRA, arXiv:2106.09685, section 1",
    ),
    Rule(
        "latency counts",
        lambda s: s.latency,
        LORA,
        "merged into the weights it costs nothing in a forward pass, while adapters behind sublayers and virtual "
        "tokens stay",
        "Hu et al., 2022, LoRA, arXiv:2106.09685, sections 3 and 4.1",
    ),
    Rule(
        "stability counts",
        lambda s: s.stability,
        BOTTLENECK,
        "bottleneck adapters were less sensitive to learning rates and overfitted less than full tuning",
        "He et al., 2021, On the Effectiveness of Adapter-based Tuning, arXiv:2106.03164",
    ),
    Rule(
        f"fewer than {FEW_ROWS:,} rows, and a large model",
        lambda s: s.rows < FEW_ROWS and s.parameters >= LARGE,
        PROMPT,
        "the fewest trained parameters leave the least to overfit with, and on models from some "
        f"{LARGE // 10**9} billion parameters on a prompt reached full tuning; on smaller ones it fell behind",
        "Lester et al., 2021, The Power of Scale, arXiv:2104.08691, figure 1",
        _weak_with_few,
    ),
    Rule(
        "otherwise",
        lambda s: True,
        HYBRID,
        "low-rank updates and adapters in one model change attention and feed-forward in different ways, and together "
        "did better than either",
        "Mao et al., 2022, UniPELT, arXiv:2110.07577; He et al., 2022, arXiv:2110.04366",
    ),
)
"""In the order in which they are asked: what cannot run is out before what runs worse."""


@dataclass(frozen=True)
class Option:
    """A method that may be tried beside the rule's.

    Attributes:
        method: As ``--methods`` names it.
        merges: Whether it costs nothing in a forward pass once it is merged.
        shares: Whether several tasks can share one base.
    """

    method: str
    merges: bool
    shares: bool


OPTIONS: tuple[Option, ...] = (
    Option(LORA, True, True),
    Option(BOTTLENECK, False, True),
    Option(HYBRID, False, True),
    Option(PROMPT, False, True),
    Option(FULL, True, False),
    Option(IA3, True, True),
)
"""In the order in which they are taken, up to ``MOST_CANDIDATES``."""


@dataclass(frozen=True)
class Prior:
    """What the rules say.

    Attributes:
        situation: Of what.
        rule: The one that counts.
        also: Others that apply, which say something else.
        candidates: What may be tried, the rule's method first.
        left_out: Why others may not.
    """

    situation: Situation
    rule: Rule
    also: tuple[Rule, ...]
    candidates: tuple[str, ...]
    left_out: dict[str, str]

    @property
    def method(self) -> str:
        """What the rule says."""
        return self.rule.method

    @property
    def caveat(self) -> str:
        """What speaks against it here."""
        return self.rule.caveat(self.situation)

    def finding(self) -> Finding:
        """The rule as a finding, with the situation as its evidence."""
        why = f"{self.rule.reason[:1].upper()}{self.rule.reason[1:]} ({self.rule.source})."
        return Finding(
            "note",
            "method.prior",
            f"the rule for “{self.rule.name}” says `{self.method}`",
            "adapter",
            why + (f" But {self.caveat}." if self.caveat else ""),
            f"test it on these rows: `burnish recommend`, or train it: adapter.method={self.method.partition('+')[0]}",
            self.situation.to_json(),
        )

    def to_json(self) -> dict[str, Any]:
        """For a file of results."""
        told = {"name": self.rule.name, "method": self.method, "reason": self.rule.reason, "source": self.rule.source}
        return {
            "situation": self.situation.to_json(),
            "rule": told,
            "caveat": self.caveat,
            "also": [{"name": rule.name, "method": rule.method} for rule in self.also],
            "candidates": list(self.candidates),
            "left_out": self.left_out,
            "finding": self.finding().to_json(),
        }


def prior(situation: Situation) -> Prior:
    """The first rule that applies, and what may be tried beside its method without breaking what the situation asks."""
    applying = [rule for rule in RULES if rule.applies(situation)]
    first = applying[0]
    also = tuple(rule for rule in applying[1:-1] if rule.method != first.method)
    chosen, left_out = [first.method], dict[str, str]()
    bits = FOUR_BITS if FOUR_BITS in first.method else ""
    for option in OPTIONS:
        label = option.method.replace("&", f"{bits}&") if "&" in option.method else option.method + bits
        if label in chosen:
            continue
        why = _unsuited(option, situation, bits)
        if why:
            left_out[option.method] = why
        elif len(chosen) < MOST_CANDIDATES:
            chosen.append(label)
    return Prior(situation, first, also, tuple(chosen), left_out)


def _unsuited(option: Option, situation: Situation, bits: str) -> str:
    """Why an option does not suit a situation; empty where it does."""
    if option.method == FULL and (bits or situation.quantized):
        return "a base in few bits cannot be trained"
    if not bits and not situation.fits(option.method):
        peak = situation.peaks[option.method]
        return f"it is predicted to take {peak / GIB:.2f} GiB, and {situation.place} has {situation.limit / GIB:.2f}"  # type: ignore[operator]
    if situation.latency and not option.merges:
        return "latency counts, and it costs time in every forward pass"
    if situation.tasks > 1 and not option.shares:
        return "it makes a whole model of its own for each task"
    return ""
