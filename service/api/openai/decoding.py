"""How OpenAI's endpoints decode: their defaults, and random seeds."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from vlibrary.domain.wire import Decoding

# OpenAI lets an answer fill the context; here its length is reserved in the KV cache before it starts.
DEFAULT_TOKENS = 256
_SEEDS = 2**63


def to_decoding(
    max_tokens: int | None,
    *,
    temperature: float | None,
    top_p: float | None,
    seed: int | None = None,
    stop: Sequence[str] | None = None,
) -> Decoding:
    """Return the decoding options of a request; None is a field that it does not set."""
    return Decoding(
        max_new_tokens=DEFAULT_TOKENS if max_tokens is None else max_tokens,
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        seed=secrets.randbelow(_SEEDS) if seed is None else seed,
        stop=tuple(stop or ()),
    )
