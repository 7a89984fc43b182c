"""Distributions over the vocabulary, stored as their K most likely tokens and the rest as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST = -1e4


@dataclass(frozen=True, eq=False)
class TopK:
    """P distributions over a vocabulary of V tokens, 8·K + 4 bytes each instead of 4·V.

    The tokens outside the K most likely ones are one event with the sum of their probabilities. Nothing is
    renormalised, so the stored probabilities are exact; only their distribution within the rest is lost. With K = V,
    nothing is.

    Args:
        tokens: The K most likely tokens, int32 [P, K].
        log_probs: Their log-probabilities, float32 [P, K], in descending order.
        rest: The log-probability of all other tokens together, float32 [P].

    Probabilities of 0 are stored as the logarithm LEAST, so that p · log p is 0 and not NaN.
    """

    tokens: Tensor
    log_probs: Tensor
    rest: Tensor

    @staticmethod
    def of(log_probs: Tensor, count: int) -> TopK:
        """Compress log-probabilities [P, V] to the `count` most likely tokens, or to V if there are fewer."""
        kept, tokens = log_probs.topk(min(count, log_probs.shape[-1]), dim=-1)
        # The sum over the other tokens, not 1 minus the sum over these: that difference is lost in rounding.
        rest = log_probs.scatter(-1, tokens, -torch.inf).logsumexp(dim=-1)
        return TopK(tokens.int(), kept.clamp(min=LEAST), rest.clamp(min=LEAST))

    @staticmethod
    def cat(parts: Sequence[TopK]) -> TopK:
        """Return the distributions of all parts, one after the other."""
        return TopK(*(torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "log_probs", "rest")))

    def split(self, lengths: Sequence[int]) -> list[TopK]:
        """Return consecutive parts of these lengths; the inverse of `cat`."""
        parts = (tensor.split(list(lengths)) for tensor in (self.tokens, self.log_probs, self.rest))
        return [TopK(*part) for part in zip(*parts, strict=True)]

    def to(self, device: torch.device) -> TopK:
        """Return the distributions on the device."""
        return TopK(self.tokens.to(device), self.log_probs.to(device), self.rest.to(device))

    def __len__(self) -> int:
        return len(self.tokens)
