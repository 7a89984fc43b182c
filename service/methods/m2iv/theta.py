"""The trainable parameters Θ = {v_l^a, α_l^a, v_l^m, α_l^m}: one vector and one weight per layer and branch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlibrary.domain.vector import Edit, ModelSpec, Site

# Index of each site in the branch axis, the same as the injector's.
BRANCHES = (Site.ATTENTION, Site.MLP)
VECTOR_STD = 0.01
INITIAL_SCALE = 0.1


class Theta(nn.Module):
    """vectors [L, 2, d] and scale [L, 2], float32, with attention at branch 0 and MLP at 1: 2L(d + 1) numbers.

    Initialised with v ~ N(0, 0.01²) and α = 0.1, as LIVE does (arXiv 2406.13185). The seed determines the initial
    values on every device.
    """

    def __init__(self, spec: ModelSpec, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shape = (spec.layers, len(BRANCHES), spec.hidden_size)
        self.vectors = nn.Parameter(torch.randn(shape, generator=generator) * VECTOR_STD)
        self.scale = nn.Parameter(torch.full(shape[:2], INITIAL_SCALE))

    @property
    def shift(self) -> Tensor:
        """α_l v_l, [L, 2, d]."""
        return self.scale[..., None] * self.vectors

    def shifts(self, batch: int, strengths: Tensor | None = None) -> Tensor:
        """Return α_l v_l for each of `batch` rows, times its strength [batch], in the layout [L, 2, batch, 1, d]."""
        rows = self.shift[:, :, None, None, :].expand(-1, -1, batch, 1, -1)
        return rows if strengths is None else rows * strengths[:, None, None]

    @torch.no_grad()
    def cap(self, norms: Tensor) -> None:
        """Scale down the vectors whose α_l v_l is longer than their layer's norm, [L]."""
        factors = norms[:, None] / self.shift.norm(dim=-1).clamp(min=1e-12)
        self.vectors.mul_(factors.clamp(max=1.0)[..., None])

    def edits(self) -> dict[Site, Edit]:
        """Return the current values as edits of a vector."""
        vectors, scale = self.vectors.detach().cpu().numpy(), self.scale.detach().cpu().numpy()
        return {site: Edit(vectors[:, branch], scale[:, branch]) for branch, site in enumerate(BRANCHES)}
