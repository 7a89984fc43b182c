"""The supervised loss: the student answers like the labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from vlibrary.methods.m2iv.losses.inputs import LossInputs


def supervised_loss(inputs: LossInputs) -> Tensor:
    """Return the supervised loss: the cross-entropy of the true answers under the student.

    ::

        L_sup = -1/P · Σ_i log p_S(y_i | q, y_<i; Θ)

    in nats, over all positions i that predict an answer token. Computed in float32.

    Args:
        inputs: `student` [P, V] and `targets` [P] are read.

    Returns:
        A scalar ≥ 0, differentiable with respect to `student`.

    Reference:
        The paper's (arXiv 2504.04633), as described by Li et al. (arXiv 2509.22854).

    Example:
        >>> import torch
        >>> student = torch.zeros(2, 4)  # uniform over four tokens, at two positions
        >>> loss = supervised_loss(LossInputs(student, None, torch.tensor([0, 3])))
        >>> round(loss.item(), 4)  # ln 4
        1.3863
    """
    return functional.cross_entropy(inputs.student.float(), inputs.targets)
