"""Entities in tagged words, and what two taggings have in common: IOB2 read strictly, as CoNLL's task defines it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from burnish.data.tagged import OUTSIDE, kind_of


@dataclass(frozen=True, order=True)
class Entity:
    """Words that belong together.

    Attributes:
        start: Its first word.
        end: One behind its last.
        label: Its kind.
    """

    start: int
    end: int
    label: str


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a tagging: ``B-KIND`` and every ``I-KIND`` of the same kind right behind it (Ramshaw and Marcus,
    1995, in the form of Tjong Kim Sang and Veenstra, 1999, which is called IOB2).

    An ``I-KIND`` behind anything else belongs to no entity. Of plain tags, without ``B-`` and ``I-``, every word
    that is not ``O`` is an entity.
    """
    found: list[Entity] = []
    begin, kind = -1, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        inside = tag.startswith("I-") and begin >= 0 and kind_of(tag) == kind
        if begin >= 0 and not inside:
            found.append(Entity(begin, place, kind))
            begin = -1
        if tag.startswith("B-"):
            begin, kind = place, kind_of(tag)
        elif tag != OUTSIDE and not tag.startswith("I-"):
            found.append(Entity(place, place + 1, tag))
    return found


def kinds(labels: Sequence[str]) -> tuple[str, ...]:
    """The kinds of entities that tags can say."""
    return tuple(dict.fromkeys(kind_of(tag) or tag for tag in labels if tag != OUTSIDE))


def counts(true: Sequence[str], said: Sequence[str], labels: Sequence[str]) -> tuple[list[int], list[int], list[int]]:
    """Of each kind: how many entities are right in kind and both ends, how many were found, and how many there are."""
    places = {kind: i for i, kind in enumerate(labels)}
    right, found, given = ([0] * len(labels) for _ in range(3))
    gold = set(entities(true))
    for entity in entities(said):
        found[places[entity.label]] += 1
        right[places[entity.label]] += entity in gold
    for entity in gold:
        given[places[entity.label]] += 1
    return right, found, given
