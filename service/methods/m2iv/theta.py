"""What is learned: Θ = {v_l^a, α_l^a, v_l^m, α_l^m}, one vector and one weight per layer and branch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlibrary.domain.vector import Edit, ModelSpec, Site

# Index of each site in the branch axis, as the injector has it.
BRANCHES = (Site.ATTENTION, Site.MLP)
VECTOR_STD = 0.01
SCALE_START = 0.1


class Theta(nn.Module):
    """vectors [L, 2, d] and scale [L, 2], float32, branch 0 attention and 1 MLP: 2L(d + 1) numbers.

    Starts at v ~ N(0, 0.01²), α = 0.1: LIVE's recipe (2406.13185), since M²IV's own is not public. The same seed gives
    the same start on every device.
    """

    def __init__(self, spec: ModelSpec, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shape = (spec.layers, len(BRANCHES), spec.hidden_size)
        self.vectors = nn.Parameter(torch.randn(shape, generator=generator) * VECTOR_STD)
        self.scale = nn.Parameter(torch.full(shape[:2], SCALE_START))

    def rows(self, batch: int) -> Tensor:
        """α_l v_l for each of `batch` equal rows, as the injector takes it: [L, 2, batch, 1, d]."""
        delta = self.scale[..., None] * self.vectors
        return delta[:, :, None, None, :].expand(-1, -1, batch, 1, -1)

    def edits(self) -> dict[Site, Edit]:
        """The frozen edits of this Θ."""
        vectors, scale = self.vectors.detach().cpu().numpy(), self.scale.detach().cpu().numpy()
        return {site: Edit(vectors[:, branch], scale[:, branch]) for branch, site in enumerate(BRANCHES)}
