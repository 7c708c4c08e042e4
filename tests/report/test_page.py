"""The page: well-formed, self-contained, safe against what a model says, and there whatever is missing."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from burnish.core.errors import UserError
from burnish.report.page import build_report
from tests.report.synthetic import change, get, put, put_rows, write_run

VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = "</div><script>alert(1)</script><img src=x onerror=alert(1)>\" ' & {{ 7*7 }}"


class Outline(HTMLParser):
    """Collects elements, and every tag that is closed out of turn or never."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every such element."""
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: Path) -> tuple[str, Outline]:
    """The page of a run and its outline."""
    path = build_report(folder)
    assert path == folder / "report.html"
    page = path.read_text(encoding="utf-8")
    return page, Outline(page)


def sound(page: str, outline: Outline) -> None:
    """What holds for every page."""
    assert page.startswith("<!doctype html>")
    assert outline.faults == []
    ids = [a["id"] for _, a in outline.elements if "id" in a]
    assert len(ids) == len(set(ids)), "ids are unique"
    targets = [str(a["href"])[1:] for a in outline.all("a")]
    assert set(targets) <= set(ids), "every link of the page has its target"
    assert len(outline.all("script")) == 1


def sections(outline: Outline) -> list[str]:
    """Ids of the sections in their order."""
    return [str(a["id"]) for a in outline.all("section")]


def test_a_finished_run(finished: Path) -> None:
    """Every section is there, in the order of the brief; five charts: loss, scores, rate, norm, speed."""
    page, outline = page_of(finished)
    sound(page, outline)
    wanted = ["results", "curves", "answers", "samples", "trained", "data", "findings", "environment", "recipe"]
    assert sections(outline) == wanted
    assert len([a for a in outline.all("figure") if "data-chart" in a]) == 5
    assert len([a for a in outline.all("table") if a.get("class") == "confusion"]) == 2


def test_the_figures_are_those_of_the_files(finished: Path) -> None:
    """Accuracy of the tuned model is the sum of its diagonal over the 300 rows, and so it stands on the page."""
    counts = get(finished / "evaluation.json")["tuned"]["confusion"]["counts"]
    accuracy = sum(counts[i][i] for i in range(3)) / sum(map(sum, counts))
    _, outline = page_of(finished)
    assert f"{accuracy:.3f}" in outline.text
    assert str(counts[0][0]) in outline.text


def test_won_and_lost_agree_with_the_comparison(finished: Path) -> None:
    """Rows that only the tuned model gets right, counted from predictions.jsonl, are those of McNemar's table."""
    paired = get(finished / "evaluation.json")["comparison"]["accuracy"]
    text = " ".join(page_of(finished)[1].text)
    assert re.search(rf"Wrong before, right after\s+{paired['only_tuned_right']}\b", text)
    assert re.search(rf"Right before, wrong after\s+{paired['only_base_right']}\b", text)


def test_self_contained(finished: Path) -> None:
    """Nothing is loaded from anywhere: no link but to the page itself, no url(), no import, no frame, no image."""
    page, outline = page_of(finished)
    for _, attributes in outline.elements:
        assert not {"src", "srcset", "action", "data", "xlink:href"} & attributes.keys()
        assert str(attributes.get("href", "#")).startswith("#")
    style = page.split("<style>")[1].split("</style>")[0]
    assert not re.search(r"url\(|@import|https?:", style)
    script = page.split("<script>")[1].split("</script>")[0]
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\s*\(|innerHTML|eval\(", script)


def test_only_the_page_s_own_script_may_run(finished: Path) -> None:
    """The policy allows one script by the hash of exactly the text that stands in the page, and nothing remote."""
    page, outline = page_of(finished)
    script = page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for a in outline.all("meta") if a.get("http-equiv"))
    assert policy is not None and "default-src 'none'" in policy and f"'sha256-{digest}'" in policy
    assert "script-src 'unsafe-inline'" not in policy


def test_hostile_text_is_escaped(run: Path) -> None:
    """Markup in every text of a run stands on the page as text: one script, no image, no event handler."""
    put(run / "data.json", poisoned(get(run / "data.json")))
    put(run / "model.json", poisoned(get(run / "model.json")))
    put(run / "environment.json", poisoned(get(run / "environment.json")))
    put(run / "evaluation.json", {**poisoned(get(run / "evaluation.json")), "split": "test"})
    (run / "recipe.yaml").write_text(f"name: '{HOSTILE.replace(chr(39), '')}'", encoding="utf-8")
    for name in ("samples.jsonl", "predictions.jsonl", "findings.jsonl"):
        rows = [json.loads(line) for line in (run / name).read_text(encoding="utf-8").splitlines()]
        put_rows(run / name, poisoned(rows))
    put_rows(run / "metrics.jsonl", [{"kind": "validation", "step": 1, "loss": 1.0, HOSTILE: 0.5}])
    page, outline = page_of(run)
    sound(page, outline)
    assert "<script>alert" not in page and not outline.all("img")
    assert not [k for _, attributes in outline.elements for k in attributes if k.startswith("on")]
    assert HOSTILE in "".join(outline.text), "it can be read as it is, and is no template either"


def poisoned(value: Any) -> Any:
    """The value with hostile text in place of every text and before every class name."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, list):
        return [poisoned(v) for v in value]
    if isinstance(value, dict):
        return {k: poisoned(v) for k, v in value.items()} | ({HOSTILE: 1} if "accuracy" in value else {})
    return value


def test_characters_that_no_page_should_hold(run: Path) -> None:
    """A bell, a right-to-left override and a lone surrogate: the first two are shown as names, the third replaced."""
    put_rows(run / "samples.jsonl", [{"id": "a", "prompt": "x\x07y\u202ez", "target": "t", "base": "b", "tuned": "q"}])
    text = (run / "samples.jsonl").read_text(encoding="utf-8")
    (run / "samples.jsonl").write_text(text.replace('"q"', '"\\ud800"'), encoding="utf-8")
    page, outline = page_of(run)
    sound(page, outline)
    assert "x␇y[U+202E]z" in page and "\x07" not in page


def test_a_long_answer_is_cut(run: Path) -> None:
    """Of 10,000 characters 4,000 are shown, and the page says that 6,000 more there are."""
    put_rows(run / "samples.jsonl", [{"id": "a", "prompt": "p", "target": "t", "base": "q" * 10_000, "tuned": " \n"}])
    page, _ = page_of(run)
    assert "q" * 4000 + "… (6,000 more characters)" in page and "q" * 4001 not in page
    assert "(empty)" in page, "an answer of white space alone is named"


def test_line_separators_inside_texts(run: Path) -> None:
    """U+2028 and U+0085 are no line ends in JSONL: the row stays whole."""
    put_rows(
        run / "samples.jsonl",
        [{"id": "a", "prompt": "one\u2028two\u0085three", "target": "t", "base": "", "tuned": ""}],
    )
    assert "one\u2028two" in page_of(run)[0]


def test_without_choices(tmp_path: Path) -> None:
    """No accuracy, so no confusion and no table of classes; won and lost go by the loss; four charts."""
    page, outline = page_of(write_run(tmp_path / "plain", choices=False))
    sound(page, outline)
    assert not [a for a in outline.all("table") if a.get("class") == "confusion"]
    assert "Loss fell" in page and "Each class" not in page
    assert len([a for a in outline.all("figure") if "data-chart" in a]) == 4


def test_an_interrupted_run(tmp_path: Path) -> None:
    """60 of 150 updates and no evaluation: the curves so far, and how to go on."""
    page, outline = page_of(write_run(tmp_path / "cut", finished=False))
    sound(page, outline)
    assert sections(outline) == ["curves", "trained", "data", "findings", "environment", "recipe"]
    assert "burnish resume" in page and "60 of 150" in page


FILES = (
    "environment.json",
    "data.json",
    "model.json",
    "recipe.yaml",
    "findings.jsonl",
    "metrics.jsonl",
    "predictions.jsonl",
    "evaluation.json",
    "best.json",
    "samples.jsonl",
)


@pytest.mark.parametrize("name", FILES)
def test_each_file_may_be_missing(run: Path, name: str) -> None:
    """Without any one file the page is still whole."""
    (run / name).unlink()
    sound(*page_of(run))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"kind": 3}', "\x00", '"text"'])
def test_each_file_may_be_damaged(run: Path, content: str) -> None:
    """Whatever a file holds in place of what it should, the page is whole."""
    for name in FILES:
        (run / name).write_text(content, encoding="utf-8")
    sound(*page_of(run))


def test_a_damaged_file_is_named(run: Path) -> None:
    """Half a JSON file and bytes that are no UTF-8 are left out, and the page says so."""
    (run / "data.json").write_text('{"splits": {', encoding="utf-8")
    (run / "predictions.jsonl").write_bytes(b"\xff\xfe")
    page, _ = page_of(run)
    assert "could not be read and are left out: data.json, predictions.jsonl" in page


def test_every_value_may_be_null(run: Path) -> None:
    """NaN and infinity are written as null: with every leaf null, or every leaf a text, the page is whole."""
    for leaf, name in itertools.product(
        (None, "x", -1, [], {}), ("evaluation", "model", "data", "environment", "best")
    ):
        put(run / f"{name}.json", leaves(get(run / f"{name}.json"), leaf))
        sound(*page_of(run))
    rows = [{"kind": "train", "step": i, "loss": None, "grad_norm": None} for i in range(3)]
    put_rows(run / "metrics.jsonl", [*rows, {"kind": "validation", "step": 3}, {"kind": "finished", "step": None}])
    sound(*page_of(run))


def leaves(value: Any, leaf: Any) -> Any:
    """The value with each leaf replaced."""
    if isinstance(value, dict) and value:
        return {k: leaves(v, leaf) for k, v in value.items()}
    if isinstance(value, list) and value:
        return [leaves(v, leaf) for v in value]
    return leaf


@pytest.mark.parametrize("missing", ["base", "tuned"])
def test_only_one_model_was_scored(run: Path, missing: str) -> None:
    """With one model the table has its values and dashes for the other."""
    values = get(run / "evaluation.json")
    del values[missing], values["comparison"]
    put(run / "evaluation.json", values)
    page, outline = page_of(run)
    sound(page, outline)
    assert "Not compared" in page and "results" in sections(outline)
    assert len([a for a in outline.all("table") if a.get("class") == "confusion"]) == 1


def test_many_classes(run: Path) -> None:
    """Twenty classes make no readable matrix: the most frequent confusions stand in its place, greatest first."""
    values = get(run / "evaluation.json")
    counts = [[0] * 20 for _ in range(20)]
    counts[3][7], counts[1][2], counts[0][0] = 41, 42, 900
    values["tuned"]["confusion"] = {"labels": [f"class {i}" for i in range(20)], "counts": counts}
    change(run / "evaluation.json", **values)
    page, outline = page_of(run)
    sound(page, outline)
    assert "most frequent confusions among 20 classes" in page
    text = " ".join(t for t in outline.text if t.strip())
    assert text.index("class 1 class 2 42") < text.index("class 3 class 7 41")


def test_accessible(finished: Path) -> None:
    """Charts have a name and take the focus; header cells have a scope, tables a caption, the page a language."""
    _, outline = page_of(finished)
    assert outline.all("html")[0]["lang"] == "en"
    drawings = [a for a in outline.all("svg") if a.get("aria-hidden") != "true"]
    assert drawings and all(
        a.get("role") == "img" and a.get("aria-label") and a.get("tabindex") == "0" for a in drawings
    )
    assert all(a.get("scope") in ("col", "row", "colgroup") for a in outline.all("th"))
    assert len(outline.all("caption")) == len(outline.all("table"))
    assert [tag for tag, _ in outline.elements].count("h1") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str) -> None:
    """Text against paper and card has at least 4.5 to 1, the level AA of the accessibility guidelines.

    Ratio of relative luminances plus 0.05. The darkest heat of a confusion cell, 46 % accent, is a background too.
    """
    style = (Path(sys.modules["burnish.report.page"].__file__ or "").parent / "page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", blocks[0 if scheme == "light" else 1]))
    heat = mix(colours["accent"], colours["paper"], 0.46)
    for text, ground in itertools.product(("ink", "soft", "accent", "bad"), ("paper", "card")):
        assert ratio(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert ratio(colours["ink"], heat) >= 4.5


def luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ratio(first: str, second: str) -> float:
    """Contrast of two colours."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def mix(first: str, second: str, share: float) -> str:
    """A share of the first colour over the second."""
    parts = [(int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a * share + b * (1 - share)):02x}" for a, b in parts)


def test_no_run(tmp_path: Path) -> None:
    """An empty folder is refused, and nothing is written there."""
    with pytest.raises(UserError, match="no run"):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_it_can_be_made_again(run: Path) -> None:
    """The page is a function of the files: made twice it is the same, byte for byte."""
    first = build_report(run).read_bytes()
    assert build_report(run).read_bytes() == first


def test_nothing_heavy_is_imported() -> None:
    """A report needs neither PyTorch nor NumPy."""
    code = "import sys, burnish.report.page, burnish.report.summary as s; print({'torch', 'numpy'} & {*sys.modules})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.strip() == "set()"
