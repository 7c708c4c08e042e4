"""Memory of scoring held-out rows: some numbers of each stay, its texts, tokens, questions and answers do not."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from burnish.data import kept
from burnish.data.prepare import prepare
from burnish.evaluate import choices, head_rows, intervals, loss, measures, scored_intervals
from burnish.report.page import build_report
from burnish.train.folder import RunFolder
from burnish.train.score import Scorer, store_base, stored_base
from burnish.train.setup import set_up
from tests.support.head_rows import ROWS
from tests.support.recipes import LABELS, configured, write_rows

FEW, MANY = 400, 1200
BYTES = 480
KINDS: dict[str, Any] = {
    "choices": {"model": "llama", "evaluate": {"choices": LABELS}},
    "classification": {"model": "bert", "task": "classification"},
    "token-classification": {"model": "bert", "task": "token-classification"},
    "extractive-qa": {"model": "bert", "task": "extractive-qa"},
}


def peak(folder: Path, kind: str, rows: int) -> int:
    """Bytes that Python and NumPy hold at most while a model is scored twice, and all is written."""
    sections = {**KINDS[kind], "data": {"split": {"validation": 12, "test": rows}}}
    config = configured(folder, rows=rows + 40, **sections)
    if kind == "classification":
        texts = (folder / "rows.jsonl").read_text().replace('"prompt"', '"text"').replace('"completion"', '"label"')
        (folder / "rows.jsonl").write_text(texts)
    elif kind in ROWS:
        write_rows(folder / "rows.jsonl", ROWS[kind](rows + 40))
    setup = set_up(config)
    gc.collect()
    tracemalloc.start()
    try:
        scorer = Scorer(setup, ())
        run = RunFolder(folder / "run")
        base, tuned = scorer.base(), scorer.tuned()
        store_base(run, base, [])
        assert stored_base(run, scorer.held_out, scorer)
        scorer.write(run, base, tuned, ([], []))
        build_report(run.path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_memory_hardly_grows_with_the_held_out_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Everything that is held is written to the disk beyond 16 kB, and all is read 64 rows at a time.

    Two models are scored and compared. Of a row of K = 3 classes stay 2 x (16 + 8 K) bytes of losses and scores, 8 of
    its class; while the two are drawn together 2 x (8 K of probabilities, 7 x 8 of what the metrics need, 17 K of its
    places in K orders), and about 8 x 8 of one draw and its curve: 80 + 8 + 2 x 131 + 64 = 414 bytes. What a text, its
    tokens, its question and its two answers took before was above 4,000.
    """
    monkeypatch.setattr(kept, "IN_MEMORY", 1 << 14)
    monkeypatch.setitem(prepare.__kwdefaults__, "chunk", 64)
    for module in (choices, head_rows):
        monkeypatch.setattr(module, "CHUNK", 64)
    for module in (choices, loss):
        monkeypatch.setattr(module, "WINDOW", 128)
    for module in (intervals, measures, scored_intervals):
        monkeypatch.setattr(module, "RESAMPLES", 20)
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    few, many = (peak(tmp_path / str(rows), kind, rows) for rows in (FEW, MANY))
    assert (many - few) / (MANY - FEW) < BYTES, (few, many)
