"""Sampling: the next token of every row, each with its own temperature, top-p and seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlibrary.domain.wire import Decoding

_CANDIDATES = 1024  # the most likely tokens; their probabilities almost always reach a top_p below 1


class Sampler:
    """One row's decoding options and random numbers, which depend on its seed and not on the other rows.

    point: the number in [0, 1) that decides the next token; it stays the same when a failed step is repeated.
    """

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        # On the host, so that a seed gives the same numbers on every device.
        self._random = torch.Generator().manual_seed(decoding.seed)
        self.point = 0.0
        self.advance()

    @property
    def greedy(self) -> bool:
        return self.decoding.temperature == 0

    def advance(self) -> None:
        """Draw the next number, once the token is committed."""
        self.point = float(torch.rand((), generator=self._random, dtype=torch.float64))


def next_tokens(logits: Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """Return a token per row of logits [B, V], None where a row's logits are not finite.

    A row with temperature 0 takes the most likely token. Others sample from softmax(logits / temperature), restricted
    to the fewest tokens whose probabilities sum up to top_p.
    """
    best = logits.max(dim=-1)
    finite = torch.isfinite(best.values).tolist()
    most_likely = best.indices.tolist()
    tokens: list[int | None] = [token if fine else None for token, fine in zip(most_likely, finite, strict=True)]
    sampled = [row for row, sampler in enumerate(samplers) if finite[row] and not sampler.greedy]
    for sample, rows in (
        (_sample_all, [row for row in sampled if samplers[row].decoding.top_p >= 1]),
        (_sample_top_p, [row for row in sampled if samplers[row].decoding.top_p < 1]),
    ):
        if rows:
            group = [samplers[row] for row in rows]
            temperature = logits.new_tensor([sampler.decoding.temperature for sampler in group], dtype=torch.float64)
            # Subtracting the maximum first avoids inf - inf at tiny temperatures.
            scaled = ((logits[rows] - best.values[rows, None]) / temperature[:, None]).to(logits.dtype)
            for row, token in zip(rows, sample(scaled, group), strict=True):
                tokens[row] = token
    return tokens


def _sample_all(scaled: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Invert the cumulative distribution in vocabulary order, which needs no sorting."""
    return _invert(scaled.softmax(dim=-1), samplers).tolist()


def _sample_top_p(scaled: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Sample from the fewest tokens that reach top_p; sort the vocabulary only if the top candidates do not."""
    normaliser = scaled.logsumexp(dim=-1, keepdim=True)
    count = min(_CANDIDATES, scaled.shape[-1])
    top = scaled.topk(count, dim=-1)
    probabilities = (top.values - normaliser).exp()
    places = _invert(_truncate(probabilities, samplers), samplers)
    chosen = top.indices.gather(-1, places[:, None])[:, 0].tolist()
    for row, total in enumerate(probabilities.double().sum(dim=-1).tolist()):
        if total < samplers[row].decoding.top_p and count < scaled.shape[-1]:
            ordered = scaled[row : row + 1].sort(dim=-1, descending=True)
            nucleus = _truncate((ordered.values - normaliser[row]).exp(), samplers[row : row + 1])
            chosen[row] = int(ordered.indices[0, _invert(nucleus, samplers[row : row + 1])[0]])
    return chosen


def _truncate(probabilities: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Zero the descending probabilities [N, K] after the first whose cumulative sum reaches top_p."""
    top_p = probabilities.new_tensor([sampler.decoding.top_p for sampler in samplers], dtype=torch.float64)[:, None]
    before = probabilities.double().cumsum(dim=-1) - probabilities
    kept = before < top_p
    kept[:, 0] = True
    return probabilities.where(kept, 0.0)


def _invert(probabilities: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Return the index [N] where each row's cumulative probability passes its point; its probability is above 0."""
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    points = cumulative.new_tensor([sampler.point for sampler in samplers])[:, None] * cumulative[:, -1:]
    places = torch.searchsorted(cumulative, points, right=True)
    # Rounding may lead past the last index with a probability above 0.
    last = probabilities.shape[-1] - 1 - (probabilities.flip(-1) > 0).to(torch.uint8).argmax(dim=-1, keepdim=True)
    return torch.minimum(places, last)[:, 0]
