"""The page and the table of errors: what they hold, that text stays text, and that marks come out as data."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from burnish.report.errors import in_words, render_errors, sentence, slices_sentence
from burnish.train.error_files import as_csv

HOSTILE = '</script><script>alert(1)</script> "quoted", $x$\nsecond line \u202e'


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"rows.csv:{number}",
        "text": f"text {number}",
        "true": "a",
        "predicted": "b",
        "confidence": 0.9 - number / 100,
        "probability_of_true": 0.1,
        "probabilities": {"a": 0.1, "b": 0.9},
        "rare_words": ["text"],
        "label_error_rank": None,
        "suggested": None,
        "traits": {"confidence": "over 90 %", "length": "1–3 tokens", "negation": "negates"},
        **changes,
    }


ROWS = [
    row(1),
    row(2, text=HOSTILE, label_error_rank=1, suggested="b"),
    row(3, true="b", predicted="a", text="=1+1"),
]
SLICE = {
    "trait": "negation", "value": "negates", "rows": 20, "errors": 10, "rate": 0.5, "low": 0.3, "high": 0.7,
    "rest": 0.1, "p_value": 0.001, "adjusted": 0.004, "examples": [{"text": HOSTILE, "true": "a", "predicted": "b"}],
}  # fmt: skip
FOUND: dict[str, Any] = {
    "split": "test", "rows": 100, "errors": 3, "interval": [0.01, 0.08], "labels": ["a", "b"],
    "pairs": [
        {"true": "a", "predicted": "b", "rows": 2, "of": 60}, {"true": "b", "predicted": "a", "rows": 1, "of": 40},
    ],
    "significant": [SLICE], "tested": 7, "smallest": 10, "groups": {"negation": [SLICE]}, "label_errors": 1,
    "confident_joint": [[1, 1], [0, 1]], "made": "2026-01-01 00:00",
}  # fmt: skip


def test_the_sentences() -> None:
    assert sentence(FOUND).startswith("3 of 100 held-out test rows are wrong: 3.0")
    assert sentence({**FOUND, "errors": 0}).startswith("None of the 100 held-out test rows is wrong")
    assert "1 slice has significantly more errors" in slices_sentence(FOUND)
    assert "No slice has significantly more errors" in slices_sentence({**FOUND, "significant": []})
    assert in_words("hashtag", "has a hashtag") == "Rows whose text has a hashtag"
    assert in_words("airline", "Delta") == "Rows whose airline is “Delta”"


def test_the_page_needs_nothing_else_and_text_stays_text() -> None:
    page = render_errors(FOUND, ROWS, "run <b>")
    assert not re.search(r'(?:src|href)="(?!#)', page) and "default-src 'none'" in page
    assert "<script>alert" not in page and "run &lt;b&gt;" in page
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert block
    data = json.loads(block[1])
    assert data["rows"][1]["text"] == HOSTILE and data["labels"] == ["a", "b"]
    assert "against 10.0" in page and "p = 0.004" in page.replace("\u00a0", " ")


def test_the_table_holds_texts_as_they_are() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(ROWS))))
    assert [line["text"] for line in lines] == ["text 1", HOSTILE, "=1+1"]
    assert len(set(lines[0])) == len(lines[0]) and lines[1]["suggested"] == "b" and lines[0]["p(b)"] == "0.9"
    assert as_csv([]).startswith("id,text,true")


CLICKS = """
const set = (e, v) => {
  e.value = v;
  e.dispatchEvent(new Event(e.form ? "input" : "change", { bubbles: true }));
};
const texts = () => [...document.querySelectorAll("#list .row .text")].map((t) => t.textContent);
const said = { first: texts() };
set(document.getElementById("filters").elements.kind, "doubt");
said.doubt = texts();
document.querySelector("button.show[data-true=b]").click();
said.pair = texts();
document.querySelector("button.show[data-trait=negation]").click();
said.trait = texts().length;
set(document.querySelectorAll("#list .row select")[0], ">b");
set(document.querySelectorAll("#list .row select")[1], "x");
said.marked = document.getElementById("marked").textContent;
said.corrected = corrected();
document.title = JSON.stringify(said);
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no browser here")
def test_a_person_can_filter_mark_and_export(tmp_path: Path) -> None:
    """In a browser: the confidently wrong come first, filters and group buttons choose, marks become data."""
    page = render_errors(FOUND, ROWS, "run")
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)  # it would forbid the script below
    (tmp_path / "page.html").write_text(page.replace("</body>", f"<script>{CLICKS}</script></body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{tmp_path}/page.html"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title
    said = json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert [t.split("\n")[0] for t in said["first"]] == ["text 1", HOSTILE.split("\n")[0], "=1+1"]
    assert said["doubt"] == [HOSTILE] and said["pair"] == ["=1+1"] and said["trait"] == 3
    assert said["marked"] == "2 marked"
    assert said["corrected"][0] == {
        "id": "rows.csv:1", "text": "text 1", "label": "b", "mark": "corrected", "previous_label": "a",
    }  # fmt: skip
    assert said["corrected"][1]["mark"] == "leave out" and "label" not in said["corrected"][1]
