"""Checkpoints are whole or absent, and a damaged one is named and passed over."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.support.crews import crewed

from burnish.checkpoint.optimizer import load_state_tensors, state_tensors
from burnish.checkpoint.store import Checkpoint, CheckpointStore, apart, verify
from burnish.core.errors import UserError


def make(step: int) -> Checkpoint:
    tensors = {"trainable": {"w": torch.full((3, 2), float(step))}, "optimizer": {"exp_avg:w": torch.ones(3, 2)}}
    return Checkpoint(step=step, tensors=tensors, state={"best_value": 0.5, "reason": ""})


def test_what_is_saved_is_read_back_to_the_bit(tmp_path: Path) -> None:
    """A tensor of irrational values comes back equal in every bit, and the state as it was."""
    store = CheckpointStore(tmp_path / "checkpoints")
    value = torch.randn(5, 7, generator=torch.Generator().manual_seed(3)) / 3
    store.save(Checkpoint(step=7, tensors={"trainable": {"a": value, "half": value.bfloat16()}}, state={"tokens": 12}))
    found, findings = store.latest()
    assert found is not None and found.step == 7 and findings == []
    assert torch.equal(found.tensors["trainable"]["a"], value)
    assert torch.equal(found.tensors["trainable"]["half"], value.bfloat16())
    assert found.state == {"tokens": 12}


def test_only_the_newest_and_the_protected_stay(tmp_path: Path) -> None:
    """Of steps 1 to 5 with keep=2 and step 2 protected: 2, 4 and 5."""
    store = CheckpointStore(tmp_path, keep=2)
    for step in range(1, 6):
        store.save(make(step), protect=2)
    assert store.steps() == [2, 4, 5]


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    """Tied weights are two names of one memory; both are in the file."""
    tied = torch.arange(6.0).reshape(2, 3)
    store = CheckpointStore(tmp_path)
    store.save(Checkpoint(step=1, tensors={"trainable": {"a": tied, "b": tied, "c": tied.T}}))
    assert torch.equal(store.load(1).tensors["trainable"]["c"], tied.T)


def test_only_what_shares_memory_or_has_holes_is_copied() -> None:
    """Of 1 GB of moments a copy would be another one. A row of a matrix brings the whole matrix with it, so it is."""
    whole = torch.arange(6.0).reshape(2, 3)
    found = apart({"whole": whole, "again": whole, "row": whole[1], "turned": whole.T})
    memory = {name: tensor.untyped_storage().data_ptr() for name, tensor in found.items()}
    assert memory["whole"] == whole.data_ptr() and len(set(memory.values())) == 4
    assert found["row"].tolist() == [3, 4, 5] and torch.equal(found["turned"], whole.T)


@pytest.mark.parametrize("damage", ["flip", "shorten", "delete", "no manifest", "manifest cut"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path: Path, damage: str) -> None:
    """Whatever happens to step 2, ``latest`` returns step 1 and a finding that names step-000002."""
    store = CheckpointStore(tmp_path)
    store.save(make(1))
    folder = store.save(make(2))
    tensors, manifest = folder / "trainable.safetensors", folder / "manifest.json"
    data = tensors.read_bytes()
    if damage == "flip":
        tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "shorten":
        tensors.write_bytes(data[:-8])
    elif damage == "delete":
        tensors.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:20])
    found, findings = store.latest()
    assert found is not None and found.step == 1
    assert [f.code for f in findings] == ["checkpoint.damaged"] and "step-000002" in findings[0].what
    with pytest.raises(UserError, match="damaged"):
        store.load(2)


def test_a_save_that_fails_leaves_the_earlier_ones_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the disk full in the middle of step 2, step 1 is still whole and no leftover remains."""
    store = CheckpointStore(tmp_path)
    store.save(make(1))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("burnish.checkpoint.store.save_file", full)
    with pytest.raises(UserError, match="No space left") as caught:
        store.save(make(2))
    assert "free space" in caught.value.fix
    assert store.steps() == [1] and verify(store.path(1)) is None
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_a_manifest_cannot_name_a_file_outside(tmp_path: Path) -> None:
    """A path that climbs out of the checkpoint is not followed."""
    store = CheckpointStore(tmp_path)
    folder = store.save(make(1))
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../secret.safetensors"] = {"bytes": 1, "sha256": "0"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "is missing" in (verify(folder) or "")


def test_optimizer_state_round_trips(tmp_path: Path) -> None:
    """Two AdamW steps, a save, a load into a fresh optimiser, one more step: equal in every bit to three in a row."""

    def fresh() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 3)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1)

    def step(layer: torch.nn.Linear, optimizer: torch.optim.AdamW, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        layer(torch.randn(5, 4, generator=generator)).pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    whole, whole_optimizer = fresh()
    for number in range(3):
        step(whole, whole_optimizer, number)

    first, first_optimizer = fresh()
    for number in range(2):
        step(first, first_optimizer, number)
    store = CheckpointStore(tmp_path)
    trained = dict(first.named_parameters())
    moments = state_tensors(first_optimizer, list(first.named_parameters()))
    store.save(Checkpoint(step=2, tensors={"trainable": trained, "optimizer": moments}))

    second, second_optimizer = fresh()
    found = store.load(2)
    second.load_state_dict(dict(found.tensors["trainable"]))
    load_state_tensors(second_optimizer, list(second.named_parameters()), found.tensors["optimizer"])
    step(second, second_optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_optimizer_state_of_another_run_is_refused() -> None:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    with pytest.raises(UserError, match="does not train"):
        load_state_tensors(optimizer, list(layer.named_parameters()), {"exp_avg:other.weight": torch.ones(1)})


def save_by_two(store: CheckpointStore) -> list[Path]:
    """Step 3, of which each holds one tensor and one has moments; where each says that it is."""
    here, meta = torch.arange(4.0), torch.empty(4, device="meta")
    parts = [
        {"trainable": {"a": here, "b": meta}, "optimizer": {"exp_avg:a": here}},
        {"trainable": {"a": meta, "b": here + 1}, "optimizer": {"exp_avg:a": meta}},
    ]
    return crewed(2, lambda c: store.save_together(Checkpoint(3, parts[c.rank], {"rank": c.rank}), c, protect=1))


def test_two_processes_write_one_checkpoint(tmp_path: Path) -> None:
    """A file for each that holds something of a group; read back as one, with the first one's state."""
    store = CheckpointStore(tmp_path, keep=1)
    store.save(make(1))
    store.save(make(2), protect=1)
    assert save_by_two(store) == [store.path(3)] * 2 and store.steps() == [1, 3]
    files = sorted(p.name for p in store.path(3).glob("*.safetensors"))
    parts = ["trainable-00001-of-00002.safetensors", "trainable-00002-of-00002.safetensors"]
    assert files == ["optimizer-00001-of-00002.safetensors", *parts] and verify(store.path(3)) is None
    found = store.load(3)
    assert found.state == {"rank": 0} and found.tensors["trainable"].keys() == {"a", "b"}
    assert found.tensors["trainable"]["b"].tolist() == [1, 2, 3, 4]
    assert found.tensors["optimizer"]["exp_avg:a"].tolist() == [0, 1, 2, 3]


def test_one_of_two_that_cannot_write_is_told_to_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path)
    store.save(make(1))
    real = save_file

    def full(tensors: Any, path: Path) -> None:
        if "00002-of" in path.name:
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr("burnish.checkpoint.store.save_file", full)
    with pytest.raises(UserError, match="No space left"):  # in both, or `crewed` would say so
        save_by_two(store)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
