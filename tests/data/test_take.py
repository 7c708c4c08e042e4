"""Some rows of a table, with everything that rows carry."""

from __future__ import annotations

import numpy as np

from burnish.data.render import Rendered
from burnish.data.table import TokenTable


def test_taken_rows_keep_their_tokens_classes_numbers_and_tasks() -> None:
    """Rows 2 and 0 of three: tags [7, 8, 9] and [1, 2], numbers [5, 6] and [1, 2], tasks b and a, all by hand."""
    rows = [
        Rendered([1, 2], [False, True], [1], [], 2, label=0, token_labels=(1, 2), values=(1.0, 2.0)),
        Rendered([3], [False], [3], [], 1, label=1, token_labels=(-100,), values=(3.0, 4.0)),
        Rendered([4, 5, 6], [False, True, True], [4], [], 3, label=2, token_labels=(7, 8, 9), values=(5.0, 6.0)),
    ]
    taken = TokenTable.build(["f:1", "f:2", "f:3"], rows, ["a", None, "b"], ("a", "b")).take([2, 0])
    assert list(taken.ids) == ["f:3", "f:1"] and taken.labels.tolist() == [2, 0]
    assert taken.row(0)[0].tolist() == [4, 5, 6] and taken.prompt(1).tolist() == [1]
    assert taken.token_labels.tolist() == [7, 8, 9, 1, 2]
    assert taken.numbers(np.arange(2)).tolist() == [[5.0, 6.0], [1.0, 2.0]]
    assert taken.tasks_of([0, 1]) == ("b", "a")
