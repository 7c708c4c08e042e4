"""The benchmark for GPUs runs: in its tiny form, on a processor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def test_it_measures_what_it_can_and_says_what_it_cannot(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    options = ["--device", "cpu", "--shapes", "tiny", "--tokens", "128", "--steps", "2", "--out", str(out)]
    answer = subprocess.run(
        [sys.executable, str(BENCH / "gpu.py"), *options, "--contenders", "Burnish"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    results = {r["method"]: r for r in json.loads(out.read_text())["results"]}
    for method in ("lora", "full"):
        assert not results[method]["failed"] and results[method]["tokens_per_second"] > 0
        assert results[method]["share"] > 0 and results[method]["peak_bytes"] > 0
    assert results["qlora"]["failed"].startswith("not available yet") or results["qlora"]["tokens_per_second"] > 0
    assert "| tiny | lora | 128 | Burnish |" in answer.stdout


def test_the_cost_of_a_token_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny shape: a layer has 64 * (64 + 32 + 32 + 64) + 3 * 64 * 128 = 36,864 numbers in its matrices, the head
    64 * 256: N = 2 * 36,864 + 16,384 = 90,112. Attention at T = 128: 6 * 2 layers * 4 heads * 16 * 128 = 98,304.
    """
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu
    import gpu_job
    import torch

    shape = gpu_job.SHAPES["tiny"]
    model = gpu_job.build(shape, torch.float32, torch.device("cpu"), 128)
    assert gpu_job.linear_parameters(model) == 90_112
    assert gpu.flops_per_token(shape, "full", 90_112, 90_112, 128) == 6 * 90_112 + 98_304
    assert gpu.flops_per_token(shape, "lora", 90_112, 1000, 128) == 4 * 90_112 + 6 * 1000 + 98_304
    assert gpu_job.rate_of([0.0, 10.0, 11.0, 12.0], 100) == 100.0  # the second half: two updates in two seconds
