"""Entities of taggings, counted as CoNLL's strict IOB2 does; frozen numbers are those of `seqeval` 1.2.2."""

from __future__ import annotations

import random

import numpy as np
import pytest

from burnish.evaluate.entities import Entity, counts, entities, kinds
from burnish.evaluate.tags import ENTITY_MEASURES, entity_tables

TAGS = ("O", "B-A", "I-A", "B-B", "I-B")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-A I-A O B-B", [(0, 2, "A"), (3, 4, "B")]),
        ("B-A B-A", [(0, 1, "A"), (1, 2, "A")]),
        ("I-A I-A O", []),
        ("B-A I-B I-A", [(0, 1, "A")]),
        ("O I-A B-A I-A", [(2, 4, "A")]),
        ("B-A I-A", [(0, 2, "A")]),
        ("", []),
        ("NOUN O VERB", [(0, 1, "NOUN"), (2, 3, "VERB")]),
    ],
)
def test_by_hand(tags: str, expected: list[tuple[int, int, str]]) -> None:
    """``I-`` behind another kind or nothing begins no entity; plain tags are one word each."""
    assert entities(tags.split()) == [Entity(*e) for e in expected]


def test_kinds() -> None:
    assert kinds(("O", "B-A", "I-A", "B-B", "NOUN")) == ("A", "B", "NOUN")


# precision, recall, F1 and support of A and B, then precision, recall and F1 of both: seqeval with scheme=IOB2,
# mode="strict" on the six sets of forty rows that random.Random(7) draws below
SEQEVAL = [
    (
        [0.6363636363636364, 0.7692307692307693],
        [0.6666666666666666, 0.7894736842105263],
        [0.6511627906976744, 0.7792207792207793],
        [42, 38],
        [0.6987951807228916, 0.725, 0.7116564417177915],
    ),
    (
        [0.7111111111111111, 0.6862745098039216],
        [0.7272727272727273, 0.6862745098039216],
        [0.7191011235955056, 0.6862745098039216],
        [44, 51],
        [0.6979166666666666, 0.7052631578947368, 0.7015706806282722],
    ),
    (
        [0.6829268292682927, 0.7],
        [0.7567567567567568, 0.7],
        [0.7179487179487181, 0.7],
        [37, 30],
        [0.6901408450704225, 0.7313432835820896, 0.7101449275362318],
    ),
    (
        [0.7073170731707317, 0.723404255319149],
        [0.7837837837837838, 0.7727272727272727],
        [0.7435897435897435, 0.7472527472527473],
        [37, 44],
        [0.7159090909090909, 0.7777777777777778, 0.7455621301775148],
    ),
    (
        [0.6470588235294118, 0.7560975609756098],
        [0.8148148148148148, 0.6888888888888889],
        [0.7213114754098361, 0.7209302325581395],
        [27, 45],
        [0.7066666666666667, 0.7361111111111112, 0.7210884353741497],
    ),
    (
        [0.7441860465116279, 0.725],
        [0.7619047619047619, 0.7631578947368421],
        [0.7529411764705882, 0.7435897435897436],
        [42, 38],
        [0.7349397590361446, 0.7625, 0.7484662576687117],
    ),
]


def drawn(draw: random.Random) -> list[tuple[list[str], list[str]]]:
    rows = []
    for _ in range(40):
        true = [draw.choice(TAGS) for _ in range(draw.randint(1, 9))]
        rows.append((true, [tag if draw.random() < 0.7 else draw.choice(TAGS) for tag in true]))
    return rows


def test_equal_to_seqeval() -> None:
    """Each kind and all together, on random taggings of which many are no valid IOB2."""
    draw = random.Random(7)
    for precision, recall, f1, support, (p, r, f) in SEQEVAL:
        found = [counts(true, said, ("A", "B")) for true, said in drawn(draw)]
        columns = {
            name: np.asarray([row[i] for row in found], float) for i, name in enumerate(("right", "found", "given"))
        }
        rows = entity_tables(columns, TAGS)["per_class"]
        for key, values in (("precision", precision), ("recall", recall), ("f1", f1), ("support", support)):
            assert [rows[kind][key] for kind in "AB"] == pytest.approx(values, rel=1e-12)
        values = [ENTITY_MEASURES[f"entity_{name}"](columns) for name in ("precision", "recall", "f1")]
        assert values == pytest.approx([p, r, f], rel=1e-12)
