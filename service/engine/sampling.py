"""The next token of every row, each with its own temperature, top-p and seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlibrary.domain.wire import Decoding

_LIKELIEST = 1024  # tokens among which a top_p below 1 almost always ends


class Sampler:
    """One row's decoding options and its random numbers, which depend on its seed alone and not on its neighbours.

    point: the number in [0, 1) that decides its next token; a step that fails and is tried again finds the same one.
    """

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        # On the host whatever the device: the same seed gives the same numbers everywhere.
        self._random = torch.Generator().manual_seed(decoding.seed)
        self.point = 0.0
        self.advance()

    @property
    def greedy(self) -> bool:
        return self.decoding.temperature == 0

    def advance(self) -> None:
        """The token is drawn: on to the next number."""
        self.point = float(torch.rand((), generator=self._random, dtype=torch.float64))


def next_tokens(logits: Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """A token per row of logits [B, V]; None where a row's logits are not finite numbers.

    Greedy rows take the likeliest token. Others draw from softmax(logits / temperature), cut to the fewest tokens whose
    probabilities reach top_p.
    """
    best = logits.max(dim=-1)
    finite = torch.isfinite(best.values).tolist()
    likeliest = best.indices.tolist()
    tokens: list[int | None] = [token if fine else None for token, fine in zip(likeliest, finite, strict=True)]
    drawing = [row for row, sampler in enumerate(samplers) if finite[row] and not sampler.greedy]
    for draw, rows in (
        (_from_all, [row for row in drawing if samplers[row].decoding.top_p >= 1]),
        (_from_likeliest, [row for row in drawing if samplers[row].decoding.top_p < 1]),
    ):
        if rows:
            chosen = draw(_heights(logits[rows], [samplers[row] for row in rows]), [samplers[row] for row in rows])
            for row, token in zip(rows, chosen, strict=True):
                tokens[row] = token
    return tokens


def _heights(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """logits / temperature, relative to the best, which becomes 0: however small the temperature, no quotient is
    infinite minus infinite."""
    temperature = logits.new_tensor([sampler.decoding.temperature for sampler in samplers], dtype=torch.float64)
    return ((logits - logits.max(dim=-1, keepdim=True).values) / temperature[:, None]).to(logits.dtype)


def _from_all(heights: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """By inverting the cumulative distribution, in the vocabulary's order: nothing needs to be sorted."""
    return _inverted(heights.softmax(dim=-1), samplers).tolist()


def _from_likeliest(heights: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The same over the fewest likeliest tokens that reach top_p; sorting a whole vocabulary takes long and is rare."""
    normaliser = heights.logsumexp(dim=-1, keepdim=True)
    most = min(_LIKELIEST, heights.shape[-1])
    top = heights.topk(most, dim=-1)
    chances = (top.values - normaliser).exp()
    chosen = top.indices.gather(-1, _inverted(_cut(chances, samplers), samplers)[:, None])[:, 0].tolist()
    for row, reached in enumerate(chances.double().sum(dim=-1).tolist()):
        if reached < samplers[row].decoding.top_p and most < heights.shape[-1]:
            ordered = heights[row : row + 1].sort(dim=-1, descending=True)
            kept = _cut((ordered.values - normaliser[row]).exp(), samplers[row : row + 1])
            chosen[row] = int(ordered.indices[0, _inverted(kept, samplers[row : row + 1])[0]])
    return chosen


def _cut(chances: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Descending chances [N, K] with 0 beyond the fewest whose sum reaches top_p, at least one."""
    top_p = chances.new_tensor([sampler.decoding.top_p for sampler in samplers], dtype=torch.float64)[:, None]
    before = chances.double().cumsum(dim=-1) - chances
    kept = before < top_p
    kept[:, 0] = True
    return chances.where(kept, 0.0)


def _inverted(chances: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """The place [N] at which each row's cumulative chances pass its random point; never one without a chance."""
    reached = chances.cumsum(dim=-1, dtype=torch.float64)
    points = reached.new_tensor([sampler.point for sampler in samplers])[:, None] * reached[:, -1:]
    places = torch.searchsorted(reached, points, right=True)
    # Rounding may lead past the last one that has a chance.
    last = chances.shape[-1] - 1 - (chances.flip(-1) > 0).to(torch.uint8).argmax(dim=-1, keepdim=True)
    return torch.minimum(places, last)[:, 0]
