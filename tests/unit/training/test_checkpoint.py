"""Checkpoints: bit-exact, atomic, and valid only for the run that wrote them."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from vlibrary.training.checkpoint import State, load_state, save_state
from vlibrary.training.errors import InvalidSettings

STATE = State({"a": torch.tensor([0.1, 1e-30]), "b": torch.arange(3)}, {"step": 7, "losses": {"mimicry": 0.1}})


def test_a_loaded_state_equals_the_saved_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.safetensors"
    save_state(path, STATE, "run")
    loaded = load_state(path, "run")
    assert loaded is not None
    assert loaded.record == STATE.record
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in STATE.tensors.items())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_missing_file_loads_as_none(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state.safetensors", "run") is None


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state", STATE, "run")
    with pytest.raises(InvalidSettings, match="belongs to another run"):
        load_state(tmp_path / "state", "other")


def test_a_truncated_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, STATE, "run")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InvalidSettings, match="is not a valid checkpoint"):
        load_state(path, "run")
    path.write_bytes(b"no checkpoint at all")
    with pytest.raises(InvalidSettings, match="is not a valid checkpoint"):
        load_state(path, "run")


def test_a_partial_file_left_by_a_crash_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, STATE, "run")
    path.with_name("state.part").write_bytes(b"half")
    loaded = load_state(path, "run")
    assert loaded is not None
    assert loaded.record["step"] == 7


def test_a_full_disk_leaves_the_last_checkpoint_and_no_partial_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: writing fails in the middle."""
    path = tmp_path / "loop.safetensors"
    small = State({"v": torch.zeros(4)}, {"step": 1})
    save_state(path, small, "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_state(path, State({"v": torch.zeros(10_000)}, {"step": 2}), "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    loaded = load_state(path, "run")
    assert loaded is not None
    assert loaded.record == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["loop.safetensors"]
