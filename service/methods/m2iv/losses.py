"""What the student is asked to match. A loss is a function of one frozen context; the objective is their weighted sum.

A further loss (the paper's synergistic one compares the attention and MLP branches) is one function in LOSSES, with
what it reads added to LossContext.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor
from torch.nn import functional

from vlibrary.training.errors import InvalidSettings


@dataclass(frozen=True)
class LossContext:
    """One batch's answer-predicting positions, P of them, the first answer token's included.

    student: logits [P, V] of the steered zero-shot model; teacher: log-probabilities [P, V] of the n-shot model;
    targets: the true tokens [P].
    """

    student: Tensor
    teacher: Tensor
    targets: Tensor


Loss = Callable[[LossContext], Tensor]


def mimicry(context: LossContext) -> Tensor:
    """KL(teacher ‖ student) at temperature 1, mean over positions, in nats (M²IV's L_mim)."""
    student = functional.log_softmax(context.student.float(), dim=-1)
    return functional.kl_div(student, context.teacher, reduction="batchmean", log_target=True)


def supervised(context: LossContext) -> Tensor:
    """Cross-entropy on the true answer, mean over positions, in nats (M²IV's L_sup)."""
    return functional.cross_entropy(context.student.float(), context.targets)


LOSSES: Mapping[str, Loss] = MappingProxyType({"mimicry": mimicry, "supervised": supervised})

# λ_mim and λ_sup from a third party's re-implementation of M²IV. λ_syn is 0 until an ablation shows that it helps,
# so that loss is not among LOSSES.
DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType({"mimicry": 1.0, "supervised": 0.5})


@dataclass(frozen=True)
class Objective:
    """L = Σ λ_i · L_i over the named losses. Raises InvalidSettings for an unknown name or no weight above 0."""

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - set(LOSSES))
        if unknown:
            raise InvalidSettings(f"There is no loss {unknown[0]!r}.", f"Known are {sorted(LOSSES)}.")
        usable = all(math.isfinite(weight) and weight >= 0 for weight in self.weights.values())
        if not usable or not any(self.weights.values()):
            raise InvalidSettings(f"The loss weights are {dict(self.weights)}.", "Give weights ≥ 0, one of them above.")

    @property
    def needs_teacher(self) -> bool:
        """Whether any weighted loss reads the teacher; without one the n-shot forwards can be spared."""
        return self.weights.get("mimicry", 0.0) > 0

    def __call__(self, context: LossContext) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum (a scalar), and each loss before weighting. A weight of 0 leaves its loss out."""
        parts = {name: LOSSES[name](context) for name, weight in self.weights.items() if weight > 0}
        total = sum((self.weights[name] * part for name, part in parts.items()), start=context.student.new_zeros(()))
        return total, parts
