"""Exact match and token F1 of answers, as the evaluation scripts of SQuAD 1.1 and 2.0 define them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from burnish.evaluate.intervals import Floats, bootstrap_ratio, wilson
from burnish.evaluate.text import TEXT_METRICS, Scores

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case, without ASCII punctuation, without the articles a, an and the, words apart by one space.

    In that order (Rajpurkar et al., 2016): punctuation goes before the articles, so `the-end` keeps its `the`.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, target: str) -> float:
    """1 where both are equal once they are normalised."""
    return float(normalised(answer) == normalised(target))


def token_f1(answer: str, target: str) -> float:
    """``2 PR / (P + R)`` of the words of both, each counted as often as it occurs.

    Where either has no words left it is 1 if neither has, else 0 (Rajpurkar et al., 2018, for questions without an
    answer; the script of 1.1 gives 0 for both, which differs only where a right answer is all punctuation or articles).
    """
    said, true = normalised(answer).split(), normalised(target).split()
    if not said or not true:
        return float(said == true)
    common = sum((Counter(said) & Counter(true)).values())
    return 2 * common / (len(said) + len(true))


def best_of(answer: str, targets: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 against the target that is nearest in each; no target means that there is no answer.

    Targets that normalise to nothing are left out, as in the script of 2.0.
    """
    known = [t for t in targets if normalised(t)] or [""]
    return max(exact_match(answer, t) for t in known), max(token_f1(answer, t) for t in known)


def best_threshold(gaps: Floats, scores: Floats, has_answer: Floats) -> float:
    """The threshold above which a question is said to have no answer, so that the sum of the scores is largest.

    With the questions in the order of ``gap``, the sum changes at each by its score if it has an answer, else by -1,
    from as many as have none (the search of SQuAD 2.0's script); equal gaps are taken together, since no threshold
    parts them.

    Args:
        gaps: [N] how much likelier no answer is than the best one.
        scores: [N] score of the best answer, if it is given.
        has_answer: [N] 1 where there is an answer.

    Returns:
        The largest gap that is still answered; minus infinity to answer nothing.
    """
    order = np.argsort(gaps, kind="stable")
    sums = np.cumsum(np.where(has_answer[order] > 0, scores[order], -1.0))
    last = np.flatnonzero(np.append(gaps[order][1:] != gaps[order][:-1], True)) if len(gaps) else np.empty(0, np.int64)
    if not len(last) or sums[last].max() <= 0:
        return float("-inf")
    return float(gaps[order][last[int(sums[last].argmax())]])


class Reference(str):
    """A target that has others beside it which are as right.

    Attributes:
        all: Every right answer.
    """

    __slots__ = ("all",)
    all: tuple[str, ...]

    def __new__(cls, first: str, every: Sequence[str] = ()) -> Reference:
        made = super().__new__(cls, first)
        made.all = tuple(every) or (first,)
        return made


@TEXT_METRICS.register("squad")
def squad(answers: Sequence[str], targets: Sequence[str], seed: int) -> Scores:
    """Exact match and token F1 of generated answers, 0 to 1; of several right answers the nearest counts."""
    every = [getattr(target, "all", (target,)) for target in targets]
    pairs = [best_of(answer, one) for answer, one in zip(answers, every, strict=True)]
    exact, f1 = (np.asarray([p[i] for p in pairs], dtype=np.float64) for i in range(2))
    low, high = wilson(int(exact.sum()), len(exact))
    f1_low, f1_high = bootstrap_ratio(f1, np.ones(len(f1)), seed)
    mean = [float(x.mean()) if len(x) else float("nan") for x in (exact, f1)]
    return {
        "squad_exact_match": {"value": mean[0], "low": low, "high": high},
        "token_f1": {"value": mean[1], "low": f1_low, "high": f1_high},
    }
