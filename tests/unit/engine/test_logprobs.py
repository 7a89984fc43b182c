"""Log-probabilities are those of the plain softmax, and do not depend on the other rows' options."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.model.tiny import build_tokenizer
from vlibrary.engine import logprobs
from vlibrary.engine.logprobs import MAX_TOP, score_prompt, score_tokens
from vlibrary.engine.token_bytes import TokenBytes

NAMES = TokenBytes(build_tokenizer())
VOCABULARY = 64


def some_logits(rows: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


@given(
    st.lists(st.tuples(st.integers(0, VOCABULARY - 1), st.integers(0, MAX_TOP)), min_size=1, max_size=5),
    st.integers(0, 999),
)
def test_scores_are_those_of_the_softmax(rows: list[tuple[int, int]], seed: int) -> None:
    logits = some_logits(len(rows), seed)
    expected = logits.double().log_softmax(dim=-1)
    tokens, counts = [token for token, _ in rows], [count for _, count in rows]
    for row, one in enumerate(score_tokens(logits, tokens, counts, NAMES)):
        assert one.token == tokens[row]
        assert one.logprob == pytest.approx(float(expected[row, tokens[row]]), abs=1e-5)
        best = expected[row].argsort(descending=True)[: counts[row]].tolist()
        assert [other.token for other in one.top] == best
        assert [other.logprob for other in one.top] == pytest.approx(
            [float(expected[row, at]) for at in best], abs=1e-5
        )
        (alone,) = score_tokens(logits[row : row + 1], tokens[row : row + 1], counts[row : row + 1], NAMES)
        assert alone == one


def test_equally_likely_tokens_are_reported_alike_for_every_count() -> None:
    flat = torch.zeros(1, VOCABULARY)
    (full,) = score_tokens(flat, [0], [MAX_TOP], NAMES)
    for count in range(MAX_TOP):
        (some,) = score_tokens(flat, [0], [count], NAMES)
        assert some.top == full.top[:count]


def test_an_impossible_token_has_no_probability() -> None:
    logits = some_logits(1, 0)
    logits[0, 5] = -math.inf
    (one,) = score_tokens(logits, [5], [1], NAMES)
    assert one.logprob == -math.inf


def test_a_vocabulary_smaller_than_the_limit_is_reported_whole() -> None:
    (one,) = score_tokens(some_logits(1, 0)[:, :7], [3], [MAX_TOP], NAMES)
    assert len(one.top) == 7


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("at_a_time", [1, 3, 100])
def test_a_prompt_is_scored_in_chunks(length: int, at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "_CHUNK", at_a_time * VOCABULARY)
    logits, tokens = some_logits(length, 1), list(range(10, 10 + length))
    first, *rest = score_prompt(logits, tokens, 2, NAMES)
    assert (first.token, first.logprob, first.top) == (10, None, ())
    expected = logits.double().log_softmax(dim=-1)
    for place, one in enumerate(rest, start=1):
        assert one.token == tokens[place]
        assert one.logprob == pytest.approx(float(expected[place - 1, tokens[place]]), abs=1e-5)
        assert len(one.top) == 2
    assert len(rest) == length - 1
