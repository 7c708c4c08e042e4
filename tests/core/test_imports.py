"""What a run loads before it does anything: each library here costs every process a part of a second or more."""

from __future__ import annotations

import subprocess
import sys

LATE = ("datasets", "pandas", "nltk", "rouge_score", "sacrebleu", "sklearn", "scipy.stats", "peft", "optuna")


def test_a_run_starts_without_what_it_may_not_need() -> None:
    """`datasets` reads its own folders only, ROUGE and BLEU count answers only: 1.5 s of 5.9 together."""
    code = f"import sys, burnish.train.run, burnish.compare.worker; print([n for n in {LATE} if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
