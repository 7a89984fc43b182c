"""Sampling: the next token of every row, each with its own options and seed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.wire import Decoding
from vlibrary.engine.grammar import Constraint

_CANDIDATES = 1024  # the most likely tokens; they almost always contain all that top_p, top_k and min_p leave


class Sampler:
    """One row's decoding options, random numbers and tokens so far; nothing depends on the other rows.

    end_tokens: the ids that end this row's answer.
    point: the number in [0, 1) that decides the next token; it stays the same when a failed step is repeated.
    """

    def __init__(
        self,
        decoding: Decoding,
        *,
        end_tokens: Iterable[int] = (),
        prompt: Sequence[int] = (),
        vocabulary: int | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        """end_tokens: the model's own. prompt: the prompt's ids. vocabulary: the number of tokens of the model.

        constraint: of the decoding's json_schema.

        Raises InvalidInput for ids that the model does not have.
        """
        self.decoding = decoding
        named = {"stop_token_ids": decoding.stop_token_ids, "logit_bias": [token for token, _ in decoding.logit_bias]}
        for name, ids in named.items():
            _check_ids(name, ids, vocabulary)
        self.end_tokens = frozenset(decoding.stop_token_ids) | (frozenset() if decoding.ignore_eos else set(end_tokens))
        # Some models read image tokens that they cannot generate.
        self._prompt = {one for one in prompt if vocabulary is None or one < vocabulary}
        self.greedy = decoding.greedy
        penalises = decoding.repetition_penalty != 1 or decoding.presence_penalty or decoding.frequency_penalty
        self.constraint = constraint
        self._always_adjusts = bool(penalises or decoding.logit_bias or constraint)
        self._counts: Counter[int] = Counter()
        self._generated = 0
        # numpy's, because torch's generator uses the low 32 bits of a seed only. The same on every device.
        self._random = np.random.default_rng(decoding.seed % 2**64)
        self.point = self._draw()

    @property
    def adjusts(self) -> bool:
        """Whether `adjust` changes logits for the next token."""
        return self._always_adjusts or self._generated < self.decoding.min_new_tokens

    def adjust(self, logits: Tensor) -> None:
        """Apply the mask of end tokens, the bias and the penalties to this row's logits [V], in place."""
        one = self.decoding
        if self._generated < one.min_new_tokens and self.end_tokens:
            logits[self._index(self.end_tokens, logits)] = -math.inf
        if one.logit_bias:
            ids, values = zip(*one.logit_bias, strict=True)
            logits.index_add_(0, self._index(ids, logits), logits.new_tensor(values))
        if one.repetition_penalty != 1 and (seen := self._prompt | self._counts.keys()):
            index = self._index(seen, logits)
            now = logits[index]
            logits[index] = torch.where(now > 0, now / one.repetition_penalty, now * one.repetition_penalty)
        if (one.presence_penalty or one.frequency_penalty) and self._counts:
            penalties = [one.presence_penalty + one.frequency_penalty * count for count in self._counts.values()]
            logits[self._index(self._counts, logits)] -= logits.new_tensor(penalties)
        if self.constraint is not None:
            logits[~self.constraint.allowed_tokens(len(logits)).to(logits.device)] = -math.inf

    def advance(self, token: int) -> None:
        """Commit a token: count it, and draw the number for the next one."""
        self._generated += 1
        self._counts[token] += 1
        if self.constraint is not None:
            self.constraint.advance(token)
        self.point = self._draw()

    def _draw(self) -> float:
        return float(self._random.random())

    @staticmethod
    def _index(ids: Iterable[int], logits: Tensor) -> Tensor:
        return torch.tensor(list(ids), device=logits.device)


def _check_ids(name: str, ids: Sequence[int], vocabulary: int | None) -> None:
    if vocabulary is not None and (unknown := [one for one in ids if not 0 <= one < vocabulary]):
        raise InvalidInput(
            f"{name} contains the token id {unknown[0]}, which the model does not have.",
            f"Use ids from 0 to {vocabulary - 1}.",
            field=name,
        )


def adjust_logits(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Return the logits [B, V] with every row's mask, bias and penalties; the same tensor if no row has any."""
    rows = [row for row, sampler in enumerate(samplers) if sampler.adjusts]
    if rows:
        logits = logits.clone()
        for row in rows:
            samplers[row].adjust(logits[row])
    return logits


def next_tokens(logits: Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """Return a token per row of logits [B, V], None where a row's logits are not finite.

    A greedy row takes the most likely token. Others sample from softmax(logits / temperature), restricted to the tokens
    that min_p and top_k leave, and of these to the fewest whose probabilities sum up to top_p.
    """
    logits = adjust_logits(logits, samplers)
    best = logits.max(dim=-1)
    finite = torch.isfinite(best.values).tolist()
    most_likely = best.indices.tolist()
    tokens: list[int | None] = [token if fine else None for token, fine in zip(most_likely, finite, strict=True)]
    sampled = [row for row, sampler in enumerate(samplers) if finite[row] and not sampler.greedy]
    for sample, rows in (
        (_sample_all, [row for row in sampled if not _truncates(samplers[row].decoding)]),
        (_sample_truncated, [row for row in sampled if _truncates(samplers[row].decoding)]),
    ):
        if rows:
            group = [samplers[row] for row in rows]
            temperature = logits.new_tensor([sampler.decoding.temperature for sampler in group], dtype=torch.float64)
            # Subtracting the maximum first avoids inf - inf at tiny temperatures.
            scaled = ((logits[rows] - best.values[rows, None]) / temperature[:, None]).to(logits.dtype)
            for row, token in zip(rows, sample(scaled, group), strict=True):
                tokens[row] = token
    return tokens


def _truncates(decoding: Decoding) -> bool:
    return decoding.top_p < 1 or decoding.top_k > 0 or decoding.min_p > 0


def _sample_all(scaled: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Invert the cumulative distribution in vocabulary order, which needs no sorting."""
    return _invert(scaled.softmax(dim=-1), samplers).tolist()


def _sample_truncated(scaled: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Sample from what min_p, top_k and top_p leave; sort the vocabulary only if the candidates do not contain it."""
    normaliser = scaled.logsumexp(dim=-1, keepdim=True)
    count = min(_CANDIDATES, scaled.shape[-1])
    top = scaled.topk(count, dim=-1)
    probabilities = (top.values - normaliser).exp()
    places = _invert(_truncate(probabilities, samplers), samplers)
    chosen = top.indices.gather(-1, places[:, None])[:, 0].tolist()
    if count == scaled.shape[-1]:
        return chosen
    totals, least = probabilities.double().sum(dim=-1).tolist(), (probabilities[:, -1] / probabilities[:, 0]).tolist()
    for row, sampler in enumerate(samplers):
        if not _contains(totals[row], least[row], count, sampler.decoding):
            ordered = scaled[row : row + 1].sort(dim=-1, descending=True)
            kept = _truncate((ordered.values - normaliser[row]).exp(), samplers[row : row + 1])
            chosen[row] = int(ordered.indices[0, _invert(kept, samplers[row : row + 1])[0]])
    return chosen


def _contains(total: float, least: float, count: int, decoding: Decoding) -> bool:
    """Return whether the candidates contain all tokens to sample from.

    total: the sum of their probabilities. least: the last one's probability relative to the first.
    """
    if 0 < decoding.top_k <= count or least < decoding.min_p:
        return True
    # Otherwise top_p is a share of what min_p and top_k leave, which the candidates do not tell.
    return decoding.top_k == 0 and decoding.min_p == 0 and total >= decoding.top_p


def _truncate(probabilities: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Zero those of the descending probabilities [N, K] that min_p, top_k and top_p leave out."""

    def column(values: Sequence[float]) -> Tensor:
        return probabilities.new_tensor(values, dtype=torch.float64)[:, None]

    options, numbers = [sampler.decoding for sampler in samplers], probabilities.double()
    limit = column([one.top_p for one in options])
    # Without min_p and top_k all probabilities sum up to 1, also where this is only the beginning of them.
    limited = [one.top_k > 0 or one.min_p > 0 for one in options]
    if any(limited):
        size = probabilities.shape[-1]
        left = torch.arange(size, device=probabilities.device) < column([one.top_k or size for one in options])
        left &= numbers >= column([one.min_p for one in options]) * numbers[:, :1]
        probabilities = probabilities.where(left, 0.0)
        numbers = probabilities.double()
        limit *= torch.where(column(limited).bool(), numbers.sum(dim=-1, keepdim=True), 1.0)
    kept = numbers.cumsum(dim=-1) - probabilities < limit
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
