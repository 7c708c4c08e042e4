"""The rules of methods, held against situations made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.plan.rules import FULL, HYBRID, LORA, PROMPT, RULES, Situation, prior

GIB = 1 << 30


def situation(**changes: Any) -> Situation:
    """Plenty of rows and memory, one task, nothing said."""
    values: dict[str, Any] = {"rows": 20_000, "task": "text", "parameters": 135_000_000, "updates": 500}
    values |= {"peaks": {LORA: 2 * GIB, FULL: 5 * GIB}, "limit": 24 * GIB}
    return Situation(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        ({}, HYBRID),
        ({"rows": 999, "parameters": 10**10}, PROMPT),
        ({"rows": 1000, "parameters": 10**10}, HYBRID),
        ({"rows": 999, "parameters": 10**10 - 1}, HYBRID),
        ({"stability": True}, "bottleneck"),
        ({"stability": True, "rows": 100}, "bottleneck"),
        ({"latency": True}, "lora"),
        ({"latency": True, "stability": True}, "lora"),
        ({"tasks": 3, "stability": True}, "lora"),
        ({"limit": GIB}, "lora+model.quantization=nf4"),
        ({"limit": GIB, "latency": True, "rows": 10}, "lora+model.quantization=nf4"),
        ({"limit": GIB, "quantized": True}, HYBRID),
        ({"peaks": {}}, HYBRID),
        ({"limit": None}, HYBRID),
    ],
)
def test_the_first_rule_that_applies_is_the_prior(changes: dict[str, Any], method: str) -> None:
    """In the order memory, tasks, latency, stability, rows; a memory that is not known counts as enough, and a base
    that is in few bits already cannot be quantised once more. Few rows ask for a prompt on a large model alone."""
    said = prior(situation(**changes))
    assert said.method == method and said.candidates[0] == method
    assert len(set(said.candidates)) == len(said.candidates) <= 5


def test_other_rules_that_apply_are_named() -> None:
    """Memory is short, latency counts (also LoRA, of another base), and there are few rows."""
    said = prior(situation(limit=GIB, latency=True, rows=50, parameters=2 * 10**10))
    assert [rule.method for rule in said.also] == ["lora", "prompt"]


def test_no_candidate_breaks_what_the_situation_asks() -> None:
    """With latency only what can be merged; with several tasks no whole model each; with little memory 4 bits for all,
    and no full tuning; full tuning also not where only that does not fit."""
    quick = prior(situation(latency=True))
    assert set(quick.candidates) == {"lora", "full", "ia3"} and "latency" in quick.left_out["prompt"]
    shared = prior(situation(tasks=2))
    assert "full" not in shared.candidates and "for each task" in shared.left_out["full"]
    short = prior(situation(limit=GIB))
    assert all("model.quantization=nf4" in one for one in short.candidates) and "full" in short.left_out
    assert "lora+model.quantization=nf4&bottleneck" in short.candidates
    middle = prior(situation(limit=3 * GIB))
    assert middle.method == HYBRID and "5.00 GiB" in middle.left_out["full"]


def test_the_finding_holds_reason_source_and_situation() -> None:
    """What speaks against the rule stands in it too: others found prompts weak with few rows."""
    said = prior(situation(rows=200, parameters=20 * 10**9))
    finding = said.finding()
    assert "arXiv:2104.08691" in finding.why and "But Gu et al." in finding.why and finding.evidence["rows"] == 200
    assert said.to_json()["rule"]["method"] == "prompt"


def test_every_rule_has_a_reason_and_a_source_and_the_last_one_always_applies() -> None:
    assert all(rule.reason and "arXiv" in rule.source for rule in RULES)
    assert RULES[-1].applies(situation()) and len({rule.name for rule in RULES}) == len(RULES)
