"""The state of a run on disk: tensors and a small JSON record in one safetensors file, never pickle."""

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
    """tensors: parameters, optimiser moments ...; record: JSON values (step, best loss ...)."""

    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]


def save_state(path: Path, state: State, run: str) -> None:
    """Write whole or not at all: to a neighbour first, to the disk, then renamed. run: digest of what is trained."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    data = save(tensors, metadata={_KEY: json.dumps({"run": run, "record": dict(state.record)})})
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def load_state(path: Path, run: str) -> State | None:
    """What save_state wrote, or None when there is no file yet.

    Raises InvalidSettings when the file is damaged or belongs to another run (other data, model or settings): going
    on from it would give a vector that its own record does not describe.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: torch.clone(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InvalidSettings(f"{path} is not a checkpoint: {error}.", "Delete it, or name another file.") from error
    if header["run"] != run:
        raise InvalidSettings(
            f"{path} belongs to another run (other examples, model or settings).",
            "Delete it to start anew, or name another file.",
        )
    return State(tensors, header["record"])
