"""The sentence that a run comes to, in each case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish.report.read import Run
from burnish.report.verdict import Verdict, verdict


def judged(*, split: str = "test", rows: int = 1000, **parts: Any) -> Verdict:
    """The verdict on an evaluation with these parts, after tuning on 1,200 rows."""
    evaluation = {"split": split, "rows": rows, **parts}
    return verdict(Run(path=Path("runs/x"), evaluation=evaluation, data={"splits": {"train": {"rows": 1200}}}))


def metric(value: float | None, half: float | None = None) -> dict[str, Any]:
    """A value with its interval."""
    return (
        {"value": value}
        if half is None or value is None
        else {"value": value, "low": value - half, "high": value + half}
    )


def model(**metrics: dict[str, Any]) -> dict[str, Any]:
    """A model's part of the evaluation."""
    return {"metrics": metrics}


def plain(sentence: str) -> str:
    """With ordinary spaces."""
    return sentence.replace("\u202f", " ").replace("\u00a0", " ")


def test_better() -> None:
    """0.31 ± 0.03 and 0.64 ± 0.03 lie apart and accuracy rose with p < 0.001: better, and both signs are told."""
    found = judged(
        base=model(macro_f1=metric(0.312, 0.03), accuracy=metric(0.4, 0.03)),
        tuned=model(macro_f1=metric(0.638, 0.03), accuracy=metric(0.66, 0.03)),
        comparison={"accuracy": {"difference": 0.26, "p_value": 1e-20}},
    )
    assert found.tone == "better"
    assert plain(found.sentence) == (
        "After tuning on 1,200 rows, macro-F1 on the 1,000 held-out test rows rose from 0.31 to 0.64 "
        "(95 % intervals do not overlap; McNemar p < 0.001 for accuracy)."
    )


def test_worse() -> None:
    """The same the other way round: worse, in so many words."""
    found = judged(
        base=model(accuracy=metric(0.66, 0.03)),
        tuned=model(accuracy=metric(0.31, 0.03)),
        comparison={"accuracy": {"difference": -0.35, "p_value": 1e-20}},
    )
    assert found.tone == "worse"
    assert "accuracy on the 1,000 held-out test rows fell from 0.66 to 0.31" in found.sentence
    assert found.sentence.endswith("The tuned model is worse than the base model.")


def test_unclear() -> None:
    """Intervals overlap and p = 0.21: a rise of 0.02 is not called one."""
    found = judged(
        base=model(macro_f1=metric(0.61, 0.03)),
        tuned=model(macro_f1=metric(0.63, 0.03)),
        comparison={"accuracy": {"difference": 0.01, "p_value": 0.21}},
    )
    assert found.tone == "unclear"
    assert "went from 0.61 to 0.63, a difference that chance may explain" in found.sentence
    assert plain(found.sentence).endswith("(95 % intervals overlap; McNemar p = 0.210 for accuracy).")


def test_overlap_with_a_clear_paired_test() -> None:
    """Accuracy 0.60 to 0.64 with overlapping intervals but McNemar p = 0.004: the paired test decides."""
    found = judged(
        base=model(accuracy=metric(0.60, 0.03)),
        tuned=model(accuracy=metric(0.64, 0.03)),
        comparison={"accuracy": {"difference": 0.04, "p_value": 0.004}},
    )
    assert found.tone == "better"
    assert "McNemar p = 0.004)" in plain(found.sentence)


def test_accuracy_apart_but_paired_test_unclear() -> None:
    """p = 0.2 on the same rows outweighs intervals that do not touch: for accuracy the test has the last word."""
    found = judged(
        base=model(accuracy=metric(0.60, 0.01)),
        tuned=model(accuracy=metric(0.64, 0.01)),
        comparison={"accuracy": {"difference": 0.04, "p_value": 0.2}},
    )
    assert found.tone == "unclear"


def test_a_significant_test_the_other_way_does_not_prove_macro_f1() -> None:
    """Macro-F1 rose within overlapping intervals while accuracy fell with p < 0.001: the rise is not clear."""
    found = judged(
        base=model(macro_f1=metric(0.50, 0.05), accuracy=metric(0.70, 0.02)),
        tuned=model(macro_f1=metric(0.53, 0.05), accuracy=metric(0.60, 0.02)),
        comparison={"accuracy": {"difference": -0.1, "p_value": 1e-6}},
    )
    assert found.tone == "unclear"


def test_mixed() -> None:
    """Macro-F1 clearly rose, accuracy clearly fell: both are told."""
    found = judged(
        base=model(macro_f1=metric(0.30, 0.02), accuracy=metric(0.70, 0.02)),
        tuned=model(macro_f1=metric(0.50, 0.02), accuracy=metric(0.60, 0.02)),
        comparison={"accuracy": {"difference": -0.1, "p_value": 1e-6}},
    )
    assert found.tone == "mixed"
    assert "rose from 0.30 to 0.50" in found.sentence
    assert "but accuracy fell from 0.70 to 0.60 (" in found.sentence


@pytest.mark.parametrize(
    ("low", "high", "tone", "words"),
    [
        (-2.0, -1.8, "better", "the loss on the 1,000 held-out test rows fell from 2.41 to 0.51"),
        (-0.1, 0.1, "unclear", "includes zero"),
    ],
)
def test_loss_alone(low: float, high: float, tone: str, words: str) -> None:
    """Without choices the loss decides, by the interval of its paired difference: lower is better."""
    found = judged(
        base=model(loss=metric(2.412, 0.03)),
        tuned=model(loss=metric(0.511, 0.03)),
        comparison={"loss": {"difference": -1.9, "low": low, "high": high}},
    )
    assert found.tone == tone and words in found.sentence


def test_loss_rose() -> None:
    """A loss that rises is worse, though the number is greater."""
    found = judged(
        base=model(loss=metric(1.0)),
        tuned=model(loss=metric(2.0)),
        comparison={"loss": {"difference": 1.0, "low": 0.9, "high": 1.1}},
    )
    assert found.tone == "worse" and "rose from 1.00 to 2.00" in found.sentence


def test_nothing_learnt() -> None:
    """The paired difference of the loss is 0 with an interval from 0 to 0: no row changed."""
    same = model(loss=metric(1.0, 0.1))
    found = judged(base=same, tuned=same, comparison={"loss": {"difference": 0.0, "low": 0.0, "high": 0.0}})
    assert found.tone == "worse" and "nothing was learnt" in found.sentence


def test_no_difference() -> None:
    """Equal values with intervals: it stayed."""
    found = judged(base=model(accuracy=metric(0.5, 0.1)), tuned=model(accuracy=metric(0.5, 0.1)))
    assert found.tone == "unclear" and "stayed at 0.50" in found.sentence


def test_no_intervals() -> None:
    """Two bare values prove nothing, and the sentence says that nobody knows."""
    found = judged(base=model(exact_match={"value": 0.1}), tuned=model(exact_match={"value": 0.9}))
    assert found.tone == "unclear" and "nothing says how sure that is" in found.sentence


def test_close_values_keep_the_digits_that_tell_them_apart() -> None:
    """0.6412 and 0.6447 are both 0.64: three digits are shown."""
    found = judged(base=model(exact_match=metric(0.6412, 0.0001)), tuned=model(exact_match=metric(0.6447, 0.0001)))
    assert "from 0.641 to 0.645" in found.sentence


def test_validation_rows_are_a_caveat() -> None:
    """Scored on validation rows, which chose the checkpoint: the reader is told."""
    found = judged(split="validation", rows=1, base=model(loss=metric(2.0)), tuned=model(loss=metric(1.0)))
    assert "the 1 validation row " in found.sentence
    assert len(found.caveats) == 1 and "chose the checkpoint" in found.caveats[0]


@pytest.mark.parametrize("which", ["base", "tuned"])
def test_only_one_model(which: str) -> None:
    """With a single model nothing is compared."""
    found = judged(**{which: model(accuracy=metric(0.5, 0.1))})
    assert found.tone == "unknown"
    assert found.sentence == f"Only the {which} model was scored: accuracy 0.500 on the 1,000 held-out test rows."


def test_null_metrics_count_as_missing() -> None:
    """An accuracy of null on one side leaves the loss as the first metric that both have."""
    found = judged(
        base=model(accuracy=metric(None), loss=metric(2.0)), tuned=model(accuracy=metric(0.9), loss=metric(1.0))
    )
    assert "the loss" in found.sentence


def test_unfinished() -> None:
    """60 of 150 updates, best validation loss 0.505 at step 45: not finished, and how to go on."""
    found = verdict(
        Run(
            path=Path("runs/x"),
            model={"updates": 150},
            train=[{"step": 60, "loss": 1.0}],
            validation=[{"step": 45, "loss": 0.505, "improved": True}, {"step": 60, "loss": 0.6, "improved": False}],
        )
    )
    assert found.tone == "unfinished"
    assert found.sentence == (
        "The run is not finished: 60 of 150 updates are done, with the best validation loss so far, 0.505, at step 45. "
        "Continue it with “burnish resume runs/x”."
    )


def test_not_begun() -> None:
    """No line in the log."""
    assert "has made no update yet" in verdict(Run(path=Path("runs/x"))).sentence


def test_finished_without_an_evaluation() -> None:
    """The log has its last line, but there is no evaluation."""
    found = verdict(Run(path=Path("runs/x"), train=[{"step": 7}], finished={"reason": "early-stopping"}))
    assert found.tone == "unknown"
    assert found.sentence.startswith("Training stopped early, for want of improvement, after 7 updates, but")


def test_new_rows_are_counted_apart() -> None:
    """Of 1,000 rows that were learnt from, augmentation made 400 of the other 600."""
    data = {"splits": {"train": {"rows": 1000}}, "augment": {"added": 400}}
    base, tuned = model(macro_f1=metric(0.3, 0.02)), model(macro_f1=metric(0.6, 0.02))
    evaluation = {"split": "test", "rows": 1000, "base": base, "tuned": tuned}
    sentence = plain(verdict(Run(path=Path("runs/x"), evaluation=evaluation, data=data)).sentence)
    assert "After tuning on 600 rows and 400 made of them" in sentence
