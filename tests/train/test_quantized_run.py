"""Runs on bases of 4 bits from beginning to end: read back, resumed, scored, merged, and refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from burnish.cli.main import call
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.core.events import Action, Event, Stepped
from burnish.models.quantize import is_quantized
from burnish.train.config import RunConfig
from burnish.train.handover import load_handed_over, open_model
from burnish.train.merging import merge_run
from burnish.train.run import resume_run, start_run
from burnish.train.verify import verify_run
from tests.adapters.common import logits
from tests.support.recipes import configured
from tests.support.tiny import tiny_inputs

pytest.importorskip("bitsandbytes")


def quantized(folder: Path, how: dict[str, Any] | str = "nf4", **sections: Any) -> RunConfig:
    folder.mkdir(exist_ok=True)
    values = configured(folder, **sections).model_dump(mode="json")
    return build(RunConfig, {**values, "model": {"path": values["model"]["path"], "quantization": how}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that the tests only read; its learning rate makes the adapter matter."""
    config = quantized(tmp_path_factory.mktemp("kbit") / "a", train={"max_steps": 12, "learning_rate": 0.02})
    return start_run(config).folder


def test_the_base_is_the_same_again(finished: Path) -> None:
    """By the run, and by its adapter folder alone, whose `burnish.json` says how the base was kept."""
    by_run = load_handed_over(finished, dtype=torch.float32).model
    by_folder = open_model(str(finished / "final")).model
    assert any(is_quantized(m) for m in by_folder.modules())
    assert torch.equal(logits(by_run, tiny_inputs("llama")), logits(by_folder, tiny_inputs("llama")))
    assert all(check.passed for check in verify_run(finished))


def test_sizes_are_noted(finished: Path) -> None:
    model = json.loads((finished / "model.json").read_text())
    done = model["origin"]["quantization"]
    assert done["settings"]["kind"] == "nf4" and done["modules"] == 14
    assert done["bytes"]["weights"] == (4 * 32 * 32 + 3 * 32 * 64)
    assert model["parameters"] == model["origin"]["parameters"] > 2 * done["bytes"]["weights"]
    findings = [json.loads(line) for line in (finished / "findings.jsonl").read_text().splitlines()]
    said = next(f["what"] for f in findings if f["code"] == "model.quantization")
    assert "14 linear maps are kept in nf4" in said and "together" in said


def test_commands_open_it(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(finished)
    assert call(["evaluate", run, "--json"]) == 0
    assert call(["generate", run, "hello", "--max-new-tokens", "3"]) == 0
    assert call(["verify", run]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_resuming_is_exact(tmp_path: Path) -> None:
    """Interrupted after 3 of 6 updates: the same tensors in the end, bit by bit, as in one go."""

    def stop(event: Event) -> Action | None:
        if isinstance(event, Stepped) and event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return None

    whole = start_run(quantized(tmp_path / "a"))
    stopped = start_run(quantized(tmp_path / "b"), callbacks=[stop])
    assert stopped.step == 3
    resumed = resume_run(stopped.folder)
    files = [r.folder / "checkpoints/step-000006/trainable.safetensors" for r in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_merging_measures_both_bases_and_takes_the_better(finished: Path, tmp_path: Path) -> None:
    """Merged into unpack(pack(W)) it computes what was trained, up to rounding; into W it does not. The better one by
    held-out loss is written, and `transformers` loads it."""
    report = merge_run(finished, tmp_path / "merged")
    trained, full, dequantized = report.bases
    assert [b.base for b in report.bases] == ["trained", "full", "dequantized"]
    assert dequantized.kl < 1e-8 < full.kl
    assert dequantized.metrics["loss"] == pytest.approx(trained.metrics["loss"], abs=1e-5)
    taken = next(b for b in report.bases if b.taken)
    assert taken.metrics["loss"] == min(full.metrics["loss"], dequantized.metrics["loss"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not any(is_quantized(m) for m in model.modules())


@pytest.mark.parametrize("base", ["full", "dequantized"])
def test_a_base_that_is_asked_for(
    base: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    assert call(["merge", str(finished), str(out), "--base", base, "--dtype", "bf16"]) == 0
    shown = capsys.readouterr().out
    assert f"{base} (taken)" in shown and "mean KL" in shown and "loss" in shown
    model = AutoModelForCausalLM.from_pretrained(out).float()
    trained = load_handed_over(finished, dtype=torch.float32).model
    wanted = logits(trained, tiny_inputs("llama"))
    close = torch.allclose(logits(model, tiny_inputs("llama")), wanted, atol=0.05 * float(wanted.abs().max()))
    assert close == (base == "dequantized")


def test_a_base_that_there_is_not(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no base `dequantised`") as caught:
        merge_run(finished, tmp_path / "merged", base="dequantised")
    assert "dequantized" in caught.value.fix
    run = start_run(configured(tmp_path, train={"max_steps": 1})).folder
    with pytest.raises(UserError, match="one base to merge it into"):
        merge_run(run, tmp_path / "merged", base="full")


def test_full_tuning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`full` trains the base's own weights, and this base keeps them in 4 bits"):
        start_run(quantized(tmp_path / "a", adapter="full"))
    assert not (tmp_path / "a" / "runs").exists()


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_other_architectures(name: str, tmp_path: Path) -> None:
    """GPT-2's maps are Conv1D; a T5 keeps some maps as they are. Both are merged into plain models again."""
    how = {"kind": "fp4", "double": False}
    run = start_run(quantized(tmp_path, how, model=name, train={"max_steps": 2})).folder
    assert all(check.passed for check in verify_run(run))
    report = merge_run(run, tmp_path / "merged")
    assert report.bases[2].kl < 1e-8
