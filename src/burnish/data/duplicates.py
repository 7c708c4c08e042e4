"""Exact duplicates inside a set, contradictions between equal prompts, and leaks between sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from burnish.data.example import Example


@dataclass(frozen=True)
class Duplicates:
    """What equals what inside a set.

    Attributes:
        unique: The examples without later copies of an earlier one.
        copies: Pairs of a copy's id and the id of the example that it equals.
        repeated_prompts: Examples whose prompt an earlier one has, copies included.
        conflicts: Ids of examples that share a prompt but not the target, by prompt; the first of each group first.
    """

    unique: list[Example]
    copies: list[tuple[str, str]]
    repeated_prompts: int
    conflicts: list[list[str]]


def find_duplicates(examples: Sequence[Example]) -> Duplicates:
    """Compare prompts and targets character by character (through a 128-bit hash)."""
    first: dict[bytes, str] = {}
    prompts: dict[bytes, list[str]] = {}
    unique: list[Example] = []
    copies: list[tuple[str, str]] = []
    for example in examples:
        key = _hash(example.key)
        if key in first:
            copies.append((example.id, first[key]))
            continue
        first[key] = example.id
        unique.append(example)
        prompts.setdefault(_hash(example.prompt_key), []).append(example.id)
    conflicts = [ids for ids in prompts.values() if len(ids) > 1]
    return Duplicates(unique, copies, len(examples) - len(prompts), conflicts)


def find_leaks(examples: Sequence[Example], held_out: Sequence[Example]) -> dict[str, str]:
    """Examples whose prompt is also in a held-out set: their ids, each with the id of the held-out example."""
    known = {_hash(e.prompt_key): e.id for e in reversed(held_out)}
    keys = ((e.id, _hash(e.prompt_key)) for e in examples)
    return {name: known[key] for name, key in keys if key in known}


def _hash(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
