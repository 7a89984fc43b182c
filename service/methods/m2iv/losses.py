"""The losses of M²IV.

The paper trains with L = λ_mim·L_mim + λ_syn·L_syn + λ_sup·L_sup. Implemented, and on by default, are the mimicry loss
L_mim and the supervised loss L_sup. The synergistic loss L_syn, which relates the attention and MLP branches, is not
implemented.

To add a loss, add a function to `LOSSES` and what it reads to `LossInputs`.
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
class LossInputs:
    """What the losses of one batch read, at its P positions that predict answer tokens, the first token included.

    Args:
        student: Logits of the steered zero-shot model, [P, V].
        teacher: Log-probabilities of the n-shot model, [P, V].
        targets: Token ids of the true answers, [P].
    """

    student: Tensor
    teacher: Tensor
    targets: Tensor


def mimicry_loss(inputs: LossInputs) -> Tensor:
    """Return the mimicry loss: how far the student's distributions are from the teacher's.

    With p_T the teacher's distribution under n demonstrations C, and p_S the student's under the vector Θ::

        L_mim = 1/P · Σ_i KL( p_T(· | C, q, y_<i) ‖ p_S(· | q, y_<i; Θ) )

    in nats, at temperature 1, over all positions i that predict an answer token. Computed in float32.

    Args:
        inputs: `student` [P, V] and `teacher` [P, V] are read.

    Returns:
        A scalar ≥ 0, differentiable with respect to `student`.

    Reference:
        L_mim of M²IV (arXiv 2504.04633). Li et al. (arXiv 2509.22854) describe the loss; KL at temperature 1 follows
        a third-party implementation. LIVE (arXiv 2406.13185) uses the same KL without the first answer token.
    """
    student = functional.log_softmax(inputs.student.float(), dim=-1)
    return functional.kl_div(student, inputs.teacher, reduction="batchmean", log_target=True)


def supervised_loss(inputs: LossInputs) -> Tensor:
    """Return the supervised loss: the cross-entropy of the true answers under the student.

    ::

        L_sup = -1/P · Σ_i log p_S(y_i | q, y_<i; Θ)

    in nats. Computed in float32.

    Args:
        inputs: `student` [P, V] and `targets` [P] are read.

    Returns:
        A scalar ≥ 0, differentiable with respect to `student`.

    Reference:
        L_sup of M²IV (arXiv 2504.04633), as described by Li et al. (arXiv 2509.22854).
    """
    return functional.cross_entropy(inputs.student.float(), inputs.targets)


LOSSES: Mapping[str, Callable[[LossInputs], Tensor]] = MappingProxyType(
    {"mimicry": mimicry_loss, "supervised": supervised_loss}
)

# λ_mim and λ_sup of a third-party implementation of M²IV; they may differ from the paper's.
DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType({"mimicry": 1.0, "supervised": 0.5})


@dataclass(frozen=True)
class Objective:
    """The training objective L = Σ λ_i · L_i over the named losses.

    Raises InvalidSettings for an unknown loss, a negative or non-finite weight, or if no weight is positive.

    Args:
        weights: λ_i by the name of the loss in `LOSSES`. A loss with weight 0 is not computed.
    """

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.weights) - set(LOSSES)):
            raise InvalidSettings(f"Unknown loss {unknown[0]!r}.", f"Use one of {', '.join(sorted(LOSSES))}.")
        usable = all(math.isfinite(weight) and weight >= 0 for weight in self.weights.values())
        if not usable or not any(self.weights.values()):
            raise InvalidSettings(
                f"Invalid loss weights {dict(self.weights)}.", "Use finite weights ≥ 0, at least one of them positive."
            )

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum (a scalar), and each loss before weighting, by name."""
        losses = {name: LOSSES[name](inputs) for name, weight in self.weights.items() if weight > 0}
        total = sum((self.weights[name] * loss for name, loss in losses.items()), start=inputs.student.new_zeros(()))
        return total, losses
