"""The synergistic loss: attention and MLP write about the same features, each feature once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from vlibrary.methods.m2iv.losses.inputs import LossInputs

GAMMA = 1e-3
MAX_FEATURES = 256
_SMALL = 1e-12


def synergistic_loss(inputs: LossInputs, reading: str = "positions") -> Tensor:
    """Return the synergistic loss: how far the correlation of the two branches' features is from the identity.

    With Z_a and Z_m [N, k] what attention and MLP of a layer add to the stream, N samples of k features, normalised::

        M     = 1/N · Z_aᵀ Z_m
        L_syn = 1/k · ( Σ_i (1 - M_ii)² + γ · Σ_{i≠j} M_ij² ),   γ = 0.001

    averaged over the layers. Computed in float32. A decoder wider than 256 is projected to k = 256 features by a fixed
    random matrix. The paper's samples are unknown, so `reading` selects them:

    - "positions": all answer positions of the batch. Each sample is scaled to the length √k, which keeps its mean over
      the samples, and with it the vector's own shift, in M.
    - "standardized": the same samples; each feature is standardised over them, as in Barlow Twins (arXiv 2103.03230). A
      constant shift then changes M only through the layers after it.
    - "queries": one sample per query, the mean over its answer positions, scaled like "positions".
    - "layers": one sample per layer, the shifts α·v themselves, scaled like "positions"; no activation is read.

    Args:
        inputs: `branches` [L, 2, P, d] is read, by "queries" `lengths` too, and by "layers" `shifts` [L, 2, d] alone.
        reading: A name in `READINGS`.

    Returns:
        A scalar ≥ 0, differentiable with respect to `branches` or `shifts`.

    Reference:
        The paper names the loss (arXiv 2504.04633; Li et al., arXiv 2509.22854). The form of Barlow Twins and γ are a
        third-party implementation's. The samples, their scaling, the projection and 1/k are our choice: with samples of
        length 1, as there, the trace of M is at most 1, and its diagonal cannot reach 1.

    Example:
        >>> same = torch.tensor([[1.0, 1.0], [1.0, -1.0]])  # two positions, two uncorrelated features
        >>> branches = torch.stack([same, same])[None]  # one layer whose branches agree
        >>> inputs = LossInputs(torch.zeros(2, 4), None, torch.tensor([0, 1]), branches=branches)
        >>> round(synergistic_loss(inputs).item(), 4)
        0.0
    """
    attention, mlp = READINGS[reading](inputs)
    correlation = attention.transpose(-1, -2) @ mlp / attention.shape[-2]
    diagonal = correlation.diagonal(dim1=-2, dim2=-1)
    off_diagonal = correlation.square().sum(dim=(-1, -2)) - diagonal.square().sum(dim=-1)
    per_layer = (1 - diagonal).square().sum(dim=-1) + GAMMA * off_diagonal
    return per_layer.mean() / attention.shape[-1]


def _positions(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    return _scale(_project(_branches(inputs)))


def _standardize(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    features = _project(_branches(inputs))
    centred = features - features.mean(dim=-2, keepdim=True)
    attention, mlp = (centred * (centred.square().mean(dim=-2, keepdim=True) + _SMALL).rsqrt()).unbind(dim=1)
    return attention, mlp


def _queries(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    own = _branches(inputs).split(list(inputs.lengths), dim=-2)
    return _scale(_project(torch.stack([rows.mean(dim=-2) for rows in own], dim=-2)))


def _layers(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    assert inputs.shifts is not None, "the trainer passes the shifts"
    return _scale(_project(inputs.shifts.float().transpose(0, 1)[None]))


READINGS: Mapping[str, Callable[[LossInputs], tuple[Tensor, Tensor]]] = MappingProxyType(
    {"positions": _positions, "standardized": _standardize, "queries": _queries, "layers": _layers}
)


def _branches(inputs: LossInputs) -> Tensor:
    assert inputs.branches is not None, "the trainer records the branches for this loss"
    return inputs.branches.float()


def _project(rows: Tensor) -> Tensor:
    """Reduce the last axis to MAX_FEATURES by a fixed random matrix that keeps lengths on average."""
    width = rows.shape[-1]
    if width <= MAX_FEATURES:
        return rows
    matrix = torch.randn(width, MAX_FEATURES, generator=torch.Generator().manual_seed(0)) / math.sqrt(MAX_FEATURES)
    return rows @ matrix.to(rows)


def _scale(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Scale the samples [L, 2, N, k] to the length √k, and return those of each branch, [L, N, k]."""
    attention, mlp = (rows * (rows.square().mean(dim=-1, keepdim=True) + _SMALL).rsqrt()).unbind(dim=1)
    return attention, mlp
