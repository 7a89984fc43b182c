"""The next token of every row, each with its own temperature, top-p and seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from service.domain.wire import Decoding


class Sampler:
    """One row's decoding options and its random numbers, which depend on its seed alone and not on its neighbours."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        # On the host whatever the device: the same seed gives the same numbers everywhere.
        self._random = torch.Generator().manual_seed(decoding.seed)

    @property
    def greedy(self) -> bool:
        return self.decoding.temperature == 0

    def draw(self) -> float:
        """The next random number in [0, 1)."""
        return float(torch.rand((), generator=self._random, dtype=torch.float64))


def next_tokens(logits: Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """A token per row of logits [B, V]; None where a row's logits are not finite numbers.

    Greedy rows take the likeliest token. Others draw from softmax(logits / temperature), cut to the fewest tokens whose
    probabilities reach top_p.
    """
    best = logits.max(dim=-1)
    finite = torch.isfinite(best.values).tolist()
    tokens: list[int | None] = [
        token if fine else None for token, fine in zip(best.indices.tolist(), finite, strict=True)
    ]
    drawing = [row for row, sampler in enumerate(samplers) if finite[row] and not sampler.greedy]
    if drawing:
        for row, token in zip(drawing, _drawn(logits[drawing], [samplers[row] for row in drawing]), strict=True):
            tokens[row] = token
    return tokens


def _drawn(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """By inverting the cumulative distribution at one random number a row."""
    options = [sampler.decoding for sampler in samplers]
    temperature = logits.new_tensor([one.temperature for one in options], dtype=torch.float64)[:, None]
    top_p = logits.new_tensor([one.top_p for one in options], dtype=torch.float64)[:, None]
    # Relative to the best, which becomes 0: however small the temperature, no quotient is infinite minus infinite.
    heights = (logits.double() - logits.double().max(dim=-1, keepdim=True).values) / temperature
    chances, order = torch.softmax(heights, dim=-1).sort(dim=-1, descending=True, stable=True)
    reached = chances.cumsum(dim=-1)
    kept = torch.where(reached - chances < top_p, chances, 0.0).cumsum(dim=-1)
    points = kept.new_tensor([sampler.draw() for sampler in samplers])[:, None] * kept[:, -1:]
    # The first place whose cumulative chance is above the point; rounding must not lead past the last kept token.
    places = torch.searchsorted(kept, points, right=True).clamp(max=kept.shape[-1] - 1)
    places = torch.minimum(places, (reached - chances < top_p).sum(dim=-1, keepdim=True) - 1).clamp(min=0)
    chosen: list[int] = order.gather(-1, places).squeeze(-1).tolist()
    return chosen
