"""The training objective, the weighted sum of the losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from torch import Tensor

from vlibrary.methods.m2iv.losses.inputs import LossInputs
from vlibrary.methods.m2iv.losses.mimicry import mimicry_loss
from vlibrary.methods.m2iv.losses.supervised import supervised_loss
from vlibrary.methods.m2iv.losses.synergistic import READINGS, synergistic_loss
from vlibrary.training.errors import InvalidSettings

Loss = Callable[[LossInputs], Tensor]
LOSSES: Mapping[str, Loss] = MappingProxyType(
    {"mimicry": mimicry_loss, "synergistic": synergistic_loss, "supervised": supervised_loss}
)

# λ_mim and λ_sup of a third-party implementation of M²IV; they may differ from the paper's. λ_syn is 1 there; ours is
# 0, because no reading of the synergistic loss has been shown to lower the validation loss (docs/lab-log.md).
DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType({"mimicry": 1.0, "synergistic": 0.0, "supervised": 0.5})


@dataclass(frozen=True)
class Objective:
    """The training objective L = Σ λ_i · L_i over the named losses.

    Raises InvalidSettings for an unknown loss or reading, a negative or non-finite weight, or if no weight is positive.

    Args:
        weights: λ_i by the name of the loss in `LOSSES`. A loss with weight 0 is not computed.
        reading: The samples of the synergistic loss, a name in `synergistic.READINGS`.
    """

    weights: Mapping[str, float]
    reading: str = "positions"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.weights) - set(LOSSES)):
            raise InvalidSettings(f"Unknown loss {unknown[0]!r}.", f"Use one of {', '.join(sorted(LOSSES))}.")
        if self.reading not in READINGS:
            raise InvalidSettings(
                f"Unknown reading {self.reading!r} of the synergistic loss.", f"Use one of {', '.join(READINGS)}."
            )
        usable = all(math.isfinite(weight) and weight >= 0 for weight in self.weights.values())
        if not usable or not any(self.weights.values()):
            raise InvalidSettings(
                f"Invalid loss weights {dict(self.weights)}.", "Use finite weights ≥ 0, at least one of them positive."
            )

    @property
    def needs_teacher(self) -> bool:
        """Whether a loss reads `LossInputs.teacher`."""
        return self.weights.get("mimicry", 0.0) > 0

    @property
    def needs_branches(self) -> bool:
        """Whether a loss reads `LossInputs.branches`."""
        return self.weights.get("synergistic", 0.0) > 0 and self.reading != "layers"

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum (a scalar), and each loss before weighting, by name."""
        functions: dict[str, Loss] = {**LOSSES, "synergistic": partial(synergistic_loss, reading=self.reading)}
        losses = {name: functions[name](inputs) for name, weight in self.weights.items() if weight > 0}
        total = sum((self.weights[name] * loss for name, loss in losses.items()), start=inputs.student.new_zeros(()))
        return total, losses
