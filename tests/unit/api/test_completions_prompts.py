"""Prompts of a completion, in each of the forms that clients send, become the same calls."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vlibrary.api.openai.completions.answers import CompletionLogprobs
from vlibrary.api.openai.completions.request import CompletionsIn
from vlibrary.domain.wire import Prompt, ScoredToken

TEXTS = st.text(min_size=1).filter(str.strip)
TOKENS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6)
SCORED = st.builds(
    ScoredToken,
    st.integers(0, 9),
    st.binary(max_size=4),
    st.none() | st.floats(max_value=0, allow_nan=False),
    st.lists(st.builds(ScoredToken, st.integers(0, 9), st.binary(max_size=4), st.floats(-5, 0)), max_size=2).map(tuple),
)


def prompts(value: Any) -> list[Prompt]:
    return CompletionsIn.model_validate({"prompt": value}).to_prompts()


@given(st.lists(TEXTS | TOKENS, min_size=1, max_size=5))
def test_texts_and_tokens_keep_their_order_and_content(values: list[str | list[int]]) -> None:
    wanted = [
        Prompt(one, verbatim=True) if isinstance(one, str) else Prompt("", verbatim=True, tokens=tuple(one))
        for one in values
    ]
    assert prompts(values) == wanted
    assert prompts(values[0]) == wanted[:1]


@given(st.text().filter(lambda text: not text.strip()) | st.just([[]]) | st.just([]) | st.just([1, "a"]) | st.none())
def test_a_prompt_without_content_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        prompts(value)


@given(st.lists(SCORED, max_size=6), st.integers(0, 50))
def test_every_token_has_one_entry_in_each_list(scored: list[ScoredToken], begin: int) -> None:
    found = CompletionLogprobs.of(scored, begin)
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset)
    for at, token in enumerate(found.tokens):
        assert found.text_offset[at] == begin + sum(map(len, found.tokens[:at]))
        top, own = found.top_logprobs[at], found.token_logprobs[at]
        assert (top is None) == (own is None)
        if top is not None and own is not None:
            assert top[token] >= own
            assert max(top.values()) == max(own, *(one.logprob or 0.0 for one in scored[at].top), -9999.0)


@pytest.mark.parametrize("tokens", [0, 1, 2])
@pytest.mark.parametrize("prompt", ["a b", [[1, 2]]])
def test_the_one_token_after_a_scored_prompt_is_listed_also_if_it_ends_the_answer(prompt: Any, tokens: int) -> None:
    scored = CompletionsIn.model_validate({"prompt": prompt, "max_tokens": tokens, "echo": True, "logprobs": 1})
    assert scored.to_completion_decoding().ignore_eos is (tokens == 1)
    plain = CompletionsIn.model_validate({"prompt": prompt, "max_tokens": tokens, "logprobs": 1})
    assert not plain.to_completion_decoding().ignore_eos
