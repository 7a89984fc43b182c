"""Log-probabilities of tokens in the model's own distribution: before temperature, penalties and masks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from vlibrary.domain.wire import ScoredToken
from vlibrary.engine.token_bytes import TokenBytes

MAX_TOP = 20  # the limit of OpenAI's API
_CHUNK = 2**24  # numbers converted to float32 at a time, 64 MiB


def score_tokens(logits: Tensor, tokens: Sequence[int], counts: Sequence[int], names: TokenBytes) -> list[ScoredToken]:
    """Return each token with its log-probability in its row of the logits [N, V].

    counts: how many of the most likely tokens to report for each row, at most MAX_TOP.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    # Always the same number: which of equally likely tokens are reported must not depend on the other rows.
    top = logprobs.topk(min(MAX_TOP, logits.shape[-1]), dim=-1)
    chosen = logprobs.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0]
    return [
        ScoredToken(
            token,
            names[token],
            logprob,
            tuple(ScoredToken(one, names[one], of) for one, of in zip(ids[:count], values[:count], strict=True)),
        )
        for token, logprob, ids, values, count in zip(
            tokens, chosen.tolist(), top.indices.tolist(), top.values.tolist(), counts, strict=True
        )
    ]


def score_prompt(logits: Tensor, tokens: Sequence[int], count: int, names: TokenBytes) -> tuple[ScoredToken, ...]:
    """Return a prompt's tokens with their log-probabilities. logits: [T, V], the row after each token."""
    first = ScoredToken(tokens[0], names[tokens[0]], None)
    size = max(1, _CHUNK // logits.shape[-1])
    starts = [*range(0, len(tokens) - 1, size), len(tokens) - 1]
    scored = [
        one
        for start, end in pairwise(starts)
        for one in score_tokens(logits[start:end], tokens[start + 1 : end + 1], [count] * (end - start), names)
    ]
    return (first, *scored)
