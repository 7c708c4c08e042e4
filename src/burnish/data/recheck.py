"""A second look at rendered rows, from tokens back to text and blind to how they were made.

The renderer derives its mask with care, but a fault in it, in a template or in a tokenizer would train garbage with a
normal curve. So some rows of every split are decoded again and held against their examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from burnish.core.findings import Finding
from burnish.data.config import RenderConfig
from burnish.data.example import Example
from burnish.data.render import Rendered

TOLERATED = 0.1
"""Share of the rows that may look wrong where the text of row and template cannot be told apart with certainty."""
SHORTEST = 8
"""Characters, without spaces, of the shortest prompt that is looked for in the trained text."""

FAULTS = {
    "prompt": (
        "render.prompt-trained",
        "the prompt is among the tokens that are trained",
        "The model would learn to ask, not to answer.",
    ),
    "answer": (
        "render.answer-not-trained",
        "the answer is not among the tokens that are trained",
        "The model would learn nothing of what it is to say.",
    ),
    "end": (
        "render.end-not-trained",
        "the target does not end with a token that ends the turn or the text",
        "The model would never learn to stop.",
    ),
    "bos": (
        "render.double-bos",
        "the row begins with two BOS tokens",
        "The model has never seen such a beginning, and will not see it when it is used.",
    ),
}
CERTAIN = ("end", "bos")


def recheck(
    name: str, sample: Sequence[tuple[Example, Rendered]], tokenizer: PreTrainedTokenizerBase, config: RenderConfig
) -> list[Finding]:
    """Decode some rows of a split and compare them with their examples; a finding that stops for each kind of fault.

    Args:
        name: The split.
        sample: Evenly spaced examples of it, and the same rendered.
        tokenizer: The tokenizer that rendered them.
        config: What was asked for.
    """
    wrong: dict[str, list[str]] = {}
    for example, row in sample:
        for fault in faults(example, row, tokenizer, config):
            wrong.setdefault(fault, []).append(example.id)
    findings = []
    for fault, ids in wrong.items():
        if fault in CERTAIN or len(ids) > TOLERATED * len(sample):
            code, what, why = FAULTS[fault]
            what = f"in {len(ids)} of {len(sample)} {name} rows that were decoded again, {what}"
            fix = "look at them with `burnish inspect`; check `data.render` and the model's chat template"
            evidence = {"rows": len(ids), "of": len(sample), "first": ids[:20]}
            findings.append(Finding("stop", code, what, ids[0], why, fix, evidence))
    return findings


def faults(example: Example, row: Rendered, tokenizer: PreTrainedTokenizerBase, config: RenderConfig) -> Iterator[str]:
    """The kinds of fault that one row has, as keys of ``FAULTS``."""
    bos = tokenizer.bos_token_id
    if bos is not None and row.input_ids[:2] == [bos, bos] and "bos-in-text" not in row.marks:
        yield "bos"
    if row.truncated:
        return
    trained = row.target_ids or [t for t, on in zip(row.input_ids, row.trained, strict=True) if on]
    # a template may print a line break behind the end of a turn
    if not set(trained[-3:]) & {*tokenizer.all_special_ids, tokenizer.eos_token_id}:
        yield "end"
    if config.train_on == "all" or example.text is not None:
        return
    text = squeezed(tokenizer.decode(trained))
    answers = [squeezed(a) for a in answers_of(example, config)]
    if any(a not in text for a in answers if comes_back(a, tokenizer)):
        yield "answer"
    if any(asks(prompt, text, answers) for prompt in prompts_of(example)):
        yield "prompt"


def asks(prompt: str, trained: str, answers: Sequence[str]) -> bool:
    """Whether trained text holds a prompt, or the end of it before the one answer. All texts are squeezed.

    A row's first token is never trained, so the first quarter of the prompt is not asked for.
    """
    if len(answers) == 1 and answers[0] and trained.find(answers[0]) > 0:
        return trained[: trained.find(answers[0])] in prompt
    body = prompt[len(prompt) // 4 :]
    return len(prompt) >= SHORTEST and body in trained and not any(body in answer for answer in answers)


def answers_of(example: Example, config: RenderConfig) -> list[str]:
    """The texts that are to be learnt."""
    if example.messages is None:
        return [example.target_text]
    turns = [m for m in example.messages if m["role"] == "assistant"]
    turns = turns[-1:] if config.train_on == "last" else turns
    return [m["content"] for m in turns if isinstance(m.get("content"), str)]


def prompts_of(example: Example) -> list[str]:
    """The texts that are given, squeezed."""
    if example.messages is None:
        return [squeezed(example.prompt or "")]
    given = [m.get("content") for m in example.messages if m["role"] != "assistant"]
    return [squeezed(text) for text in given if isinstance(text, str)]


def squeezed(text: str) -> str:
    """Text without spaces and case, which tokenizers and templates may change."""
    return "".join(text.split()).casefold()


def comes_back(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer gives a text back that it was given; some drop or replace characters."""
    return bool(text) and squeezed(tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))) == text
