"""What the losses of one batch read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vlibrary.methods.m2iv.top_k import TopK


@dataclass(frozen=True, eq=False)
class LossInputs:
    """What the losses of one batch read, at its P positions that predict answer tokens, the first token included.

    Args:
        student: Logits of the steered zero-shot model, [P, V].
        teacher: Distributions of the n-shot model at the P positions; None in a run without a teacher.
        targets: Token ids of the true answers, [P].
        lengths: The number of answer tokens of each query; their sum is P.
        shifts: α·v per layer and branch (attention first), [L, 2, d].
        branches: What attention and MLP add to the stream in every layer, shift included, [L, 2, P, d]; None if no loss
            of the run reads it.
    """

    student: Tensor
    teacher: TopK | None
    targets: Tensor
    lengths: tuple[int, ...] = ()
    shifts: Tensor | None = None
    branches: Tensor | None = None
