"""From files to token tables: what is counted, dropped, refused, and shown."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from burnish.core.errors import UserError
from burnish.core.findings import refuse_stops
from burnish.data.config import DataConfig
from burnish.data.inspect import inspect_rows, show
from burnish.data.prepare import Prepared, prepare
from tests.data.chats import talk, write_jsonl
from tests.support.tiny import tiny_tokenizer

PAIRS = [{"prompt": f"Q{i}:", "completion": f" answer {i}"} for i in range(20)]


def prepared(tmp_path: Path, rows: list[Any], kind: Any = "causal", **options: Any) -> Prepared:
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    config = DataConfig.model_validate({"train": str(path), "split": {"validation": 4}, **options})
    return prepare(config, tiny_tokenizer(), kind, seed=0)


def codes(result: Prepared) -> list[str]:
    return [f.code for f in result.findings]


def test_counts_and_hashes(tmp_path: Path) -> None:
    """Twenty rows, four held out; the summary is JSON and its counts are those of the tables."""
    result = prepared(tmp_path, PAIRS)
    summary = json.loads(json.dumps(result.summary))
    assert (len(result.train), len(result.validation), len(result.test)) == (16, 4, 0)
    train = summary["splits"]["train"]
    assert train["rows"] == 16
    assert train["tokens"] == int(result.train.lengths.sum())
    assert train["trained_share"] == pytest.approx(result.train.n_trained / result.train.n_tokens)
    assert len(summary["sources"][0]["sha256"]) == 64
    assert summary["sources"][0]["format"] == "prompt_completion"
    again = prepared(tmp_path, PAIRS)
    assert again.summary["splits"]["train"]["sha256"] == train["sha256"]


def test_the_hash_sees_ids_and_mask(tmp_path: Path) -> None:
    first = prepared(tmp_path, PAIRS).summary["splits"]["train"]["sha256"]
    moved = [{"prompt": r["prompt"] + r["completion"][:4], "completion": r["completion"][4:]} for r in PAIRS]
    other = prepared(tmp_path, moved).summary["splits"]["train"]["sha256"]
    assert first != other


def test_trained_share_by_hand(tmp_path: Path) -> None:
    """Byte by byte: the completion's tokens and one EOS carry loss, the prompt's do not."""
    tokenizer = tiny_tokenizer()
    result = prepared(tmp_path, PAIRS)
    for i in range(3):
        example = result.examples["train"][i]
        _, trained = result.train.row(i)
        target = len(tokenizer(example.completion)["input_ids"]) + 1
        assert int(np.asarray(trained).sum()) == target


def test_duplicates_leaks_and_conflicts_are_said(tmp_path: Path) -> None:
    rows = [*PAIRS, PAIRS[0], {"prompt": "Q1:", "completion": " another"}]
    result = prepared(tmp_path, rows)
    assert {"data.duplicates", "data.conflicting-targets"} <= set(codes(result))
    assert result.summary["duplicates"]["train"]["copies"] == 1
    held = write_jsonl(tmp_path / "held.jsonl", [PAIRS[3], {"prompt": "new", "completion": "x"}])
    result = prepared(tmp_path, PAIRS, test={"path": str(held)})
    assert result.summary["leaks"] and len(result.train) + len(result.validation) == 19
    assert "data.leak" in codes(result)


def test_a_leak_can_stop_the_run(tmp_path: Path) -> None:
    held = write_jsonl(tmp_path / "held.jsonl", [PAIRS[3]])
    with pytest.raises(UserError, match=r"data\.leak"):
        refuse_stops(prepared(tmp_path, PAIRS, test={"path": str(held)}, on_leak="stop").findings)


def test_rows_without_a_target_are_dropped_and_listed(tmp_path: Path) -> None:
    """One beside 16 training rows: 6 %, below the limit of 10 %; four beside 16 are 20 % and stop the run."""
    empty = [{"prompt": f"E{i}:", "completion": ""} for i in range(4)]
    result = prepared(tmp_path, [*PAIRS, *empty[:1]])
    assert [d["id"] for d in result.summary["dropped"]] == ["rows.jsonl:21"]
    refuse_stops(result.findings)
    with pytest.raises(UserError, match="max_dropped_share"):
        refuse_stops(prepared(tmp_path, [*PAIRS, *empty]).findings)


def test_cut_targets_are_counted(tmp_path: Path) -> None:
    """A target of 40 tokens and EOS in a row of at most 16: what is lost is what the table no longer holds."""
    rows = [*PAIRS, {"prompt": "x", "completion": "z" * 200}]
    result = prepared(tmp_path, rows, render={"max_length": 16}, split={"validation": 0})
    whole = len(tiny_tokenizer()("z" * 200)["input_ids"]) + 1
    index = result.train.ids.index("rows.jsonl:21")
    kept = int(np.asarray(result.train.row(index)[1]).sum())
    assert result.summary["splits"]["train"]["lost_target_tokens"] == whole - kept > 0
    assert "render.truncated" in codes(result)
    assert len(result.train.row(index)[0]) == 16


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([{"prompt": "a", "completion": ""}] * 3, {"split": {"validation": 0}}, ("convert", "target")),
        (
            PAIRS,
            {"render": {"max_length": 2, "on_too_long": "drop", "max_dropped_share": 1.0}},
            ("render", "max_length"),
        ),
        (PAIRS[:3], {"split": {"validation": 3}}, ("training",)),
    ],
)
def test_a_set_that_becomes_empty_names_the_step(
    tmp_path: Path, rows: list[Any], options: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, rows, **options)
    message = str(caught.value)
    assert all(word in message for word in words)
    assert caught.value.fix


def test_bad_rows_of_all_sources_at_once(tmp_path: Path) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", [{"prompt": [], "completion": "x"}])
    rows = [*PAIRS, {"prompt": {}, "completion": "x"}]
    with pytest.raises(UserError, match="2 rows are wrong") as caught:
        prepared(tmp_path, rows, validation={"path": str(other)}, split={})
    assert "rows.jsonl:21" in caught.value.what
    assert "other.jsonl:1" in caught.value.what


def test_train_rows_is_a_part_of_more(tmp_path: Path) -> None:
    few, more = (prepared(tmp_path, PAIRS, train_rows=n).train.ids for n in (4, 9))
    assert set(few) < set(more)
    assert len(few) == 4
    assert "data.fewer-rows" in codes(prepared(tmp_path, PAIRS, train_rows=99))


def test_encoder_decoders_keep_input_and_target_apart(tmp_path: Path) -> None:
    result = prepared(tmp_path, PAIRS, "seq2seq")
    tokenizer = tiny_tokenizer()
    assert result.train.target(0).tolist()[-1] == tokenizer.eos_token_id
    assert result.train.row(0)[0].tolist() == tokenizer(result.examples["train"][0].prompt)["input_ids"]


def shown(result: Prepared, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=160, **options)
    show(inspect_rows(result, tiny_tokenizer(), 3), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_inspect_marks_trained_text_without_colour(tmp_path: Path) -> None:
    """What stands in brackets is the completion with its end; the counts are the row's."""
    result = prepared(tmp_path, PAIRS)
    text = shown(result, no_color=True)
    example = result.examples["train"][0]
    assert f"{example.prompt}⟦{example.completion}<|endoftext|>⟧" in text
    assert f"{int(result.train.trained_counts[0])} of {int(result.train.lengths[0])} tokens trained" in text


def test_inspect_marks_every_assistant_turn(tmp_path: Path) -> None:
    rows = [{"messages": talk("hi", "hello", f"more {i}", "bye")} for i in range(8)]
    text = shown(prepared(tmp_path, rows), no_color=True)
    assert "⟦hello<|im_end|>⟧" in text and "⟦bye<|im_end|>" in text
    last = shown(prepared(tmp_path, rows, render={"train_on": "last"}), no_color=True)
    assert "⟦hello" not in last and "⟦bye<|im_end|>" in last


def test_inspect_sends_no_control_characters_to_the_terminal(tmp_path: Path) -> None:
    rows = [{"prompt": f"\x1b[2J{i}", "completion": "\x07x"} for i in range(8)]
    text = shown(prepared(tmp_path, rows), no_color=True)
    assert "\x1b" not in text and "\x07" not in text and "\\x1b" in text
