"""Checkpoints: tensors and a JSON record in one safetensors file, without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vlibrary.training.errors import InvalidSettings

_KEY = "vlibrary-checkpoint"


@dataclass(frozen=True)
class State:
    """The state of a run. tensors: such as parameters and optimizer moments; record: JSON values, such as the step."""

    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]


def save_state(path: Path, state: State, run: str) -> None:
    """Write the state atomically; see `write_atomically`.

    Args:
        path: The checkpoint file; its folder is created.
        state: The state to save.
        run: Digest of everything the run depends on; `load_state` compares it.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    data = save(tensors, metadata={_KEY: json.dumps({"run": run, "record": dict(state.record)})})
    write_atomically(path, data)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there as a whole or as it was: to a temporary file, synced, then renamed.

    Creates the folder. After an error, such as a full disk, the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def load_state(path: Path, run: str) -> State | None:
    """Return the state saved by `save_state`, or None if the file does not exist.

    Raises InvalidSettings if the file is damaged or belongs to another run (other examples, model or settings):
    resuming from it would give a vector that its training record does not describe.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: torch.clone(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InvalidSettings(
            f"{path} is not a valid checkpoint: {error}.", "Delete it, or use another path."
        ) from error
    if header["run"] != run:
        raise InvalidSettings(
            f"The checkpoint {path} belongs to another run (other examples, model or settings).",
            "Delete it to start again, or use another path.",
        )
    return State(tensors, header["record"])
