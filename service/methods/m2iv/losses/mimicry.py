"""The mimicry loss: the student answers like the teacher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vlibrary.methods.m2iv.losses.inputs import LossInputs


def mimicry_loss(inputs: LossInputs) -> Tensor:
    """Return the mimicry loss: how far the student's distributions are from the teacher's.

    With p_T the teacher's distribution under n demonstrations C, and p_S the student's under the vector Θ::

        L_mim = 1/P · Σ_i KL( p_T(· | C, q, y_<i) ‖ p_S(· | q, y_<i; Θ) )

    in nats, at temperature 1, over all positions i that predict an answer token. Computed in float32. The tokens
    outside the teacher's K most likely ones count as one event, under which the loss is a lower bound of the KL over
    the whole vocabulary; it is zero for equal distributions, and equal to the KL if K = V.

    Args:
        inputs: `student` [P, V] and `teacher` (P distributions) are read.

    Returns:
        A scalar ≥ 0, differentiable with respect to `student`.

    Reference:
        The paper's (arXiv 2504.04633), as described by Li et al. (arXiv 2509.22854). KL at temperature 1 on every
        answer token follows a third-party implementation; LIVE (arXiv 2406.13185) has the same KL without the first
        answer token. The K most likely tokens and one event for the rest are our choice.

    Example:
        >>> from vlibrary.methods.m2iv.top_k import TopK
        >>> student = torch.zeros(1, 4)  # uniform over four tokens
        >>> teacher = TopK.of(torch.tensor([[0.7, 0.1, 0.1, 0.1]]).log(), 1)
        >>> loss = mimicry_loss(LossInputs(student, teacher, torch.tensor([0])))
        >>> round(loss.item(), 4)  # 0.7 · ln(0.7 / 0.25) + 0.3 · ln(0.3 / 0.75)
        0.4458
    """
    teacher = inputs.teacher
    assert teacher is not None, "a run with this loss has a teacher"
    student = functional.log_softmax(inputs.student.float(), dim=-1)
    tokens = teacher.tokens.long()
    divergence = functional.kl_div(student.gather(-1, tokens), teacher.log_probs, reduction="none", log_target=True)
    total = divergence.sum(dim=-1)
    if tokens.shape[-1] < student.shape[-1]:
        rest = student.scatter(-1, tokens, -torch.inf).logsumexp(dim=-1)
        total = total + functional.kl_div(rest, teacher.rest, reduction="none", log_target=True)
    return total.mean()
