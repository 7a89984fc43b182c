"""Checkpoints of a training stage: after a restart it goes on exactly where it was."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vlibrary.domain.errors import InvalidInput
from vlibrary.training.checkpoint import write_atomically


class Checkpoints:
    """One file per stage with the weights, the optimizers and the random streams after a step.

    Args:
        path: The file; it is replaced atomically.
        identity: What the training depends on, such as its seed and plan. A file with another identity is refused.
    """

    def __init__(self, path: Path, identity: object) -> None:
        self._path = path
        self._identity = repr(identity)

    def save(
        self, step: int, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], rng: np.random.Generator
    ) -> None:
        """Write the state after a step. Of the module, only the trained parameters are kept."""
        state = {
            "identity": self._identity,
            "step": step,
            "weights": trainable_weights(module),
            "optimizers": [each.state_dict() for each in optimizers],
            "numpy": rng.bit_generator.state,
            "torch": torch.get_rng_state(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self._path, buffer.getvalue())

    def restore(self, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], rng: np.random.Generator) -> int:
        """Load the state, if there is one; return the step after which it was saved, otherwise 0.

        Raises InvalidInput for the state of another seed or plan.
        """
        if not self._path.exists():
            return 0
        state: dict[str, Any] = torch.load(self._path, weights_only=True)
        if state["identity"] != self._identity:
            raise InvalidInput(f"{self._path} belongs to a training with another seed.", "Remove it to start again.")
        module.load_state_dict(state["weights"], strict=False)
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        rng.bit_generator.state = state["numpy"]
        torch.set_rng_state(state["torch"])
        return int(state["step"])


def trainable_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters that training changes, by name."""
    return {name: each.detach() for name, each in module.named_parameters() if each.requires_grad}
