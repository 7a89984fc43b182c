"""Bodies of /v1/embeddings become queries and vectors become numbers, whatever the texts are."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vlibrary.api.openai.embeddings import EmbeddingsIn, EmbeddingsOut
from vlibrary.domain.query import Query, TaskEmbedding

TEXTS = st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=8)
FLOATS = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8)
TOKENS = st.lists(st.integers(0, 50_000), min_size=1) | st.lists(st.lists(st.integers(), min_size=1), min_size=1)


@given(TEXTS)
def test_each_text_is_one_query_in_order_and_unchanged(texts: list[str]) -> None:
    assert EmbeddingsIn(input=texts).to_queries() == [Query(text) for text in texts]


@given(st.text())
def test_a_single_text_is_taken_as_it_is_unless_it_is_blank(text: str) -> None:
    if text.strip():
        assert EmbeddingsIn.model_validate({"input": text}).to_queries() == [Query(text)]
    else:
        with pytest.raises(ValidationError, match="empty"):
            EmbeddingsIn.model_validate({"input": text})


@given(TOKENS)
def test_tokens_are_refused_with_what_to_send_instead(tokens: Any) -> None:
    with pytest.raises(ValidationError, match="send the text as a string"):
        EmbeddingsIn.model_validate({"input": tokens})


@given(st.lists(FLOATS, min_size=1, max_size=4))
def test_both_formats_hold_the_same_numbers(rows: list[list[float]]) -> None:
    embeddings = [TaskEmbedding(text=np.array(row, np.float32), text_tokens=2, text_limit=9) for row in rows]
    numbers = EmbeddingsOut.of(embeddings, "m", "float")
    encoded = EmbeddingsOut.of(embeddings, "m", "base64")
    for row, plain, packed in zip(rows, numbers.data, encoded.data, strict=True):
        assert plain.embedding == row
        assert isinstance(packed.embedding, str)
        assert np.frombuffer(base64.b64decode(packed.embedding), "<f4").tolist() == row
    assert numbers.usage == encoded.usage
    assert numbers.usage.total_tokens == 2 * len(rows)
