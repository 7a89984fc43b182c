"""The cache of embeddings by content."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlibrary.models.embedding_cache import ENTRY_BYTES, Embedded, EmbeddingCache, image_key, text_key

SIZE = 8
ENTRY = ENTRY_BYTES + 4 * SIZE


def embedded(number: int) -> Embedded:
    return Embedded(np.full(SIZE, number, np.float32), tokens=number)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60), st.integers(0, 5))
def test_the_cache_keeps_the_most_recently_used_entries(steps: list[tuple[bool, int]], room: int) -> None:
    cache = EmbeddingCache(room * ENTRY + ENTRY // 2)
    expected: list[int] = []  # least recently used first
    hits = 0
    for adds, number in steps:
        key = text_key(str(number))
        if adds:
            cache.add({key: embedded(number)})
        else:
            found = cache.find([key])
            assert [one.tokens for one in found.values()] == [number] * (number in expected)
            hits += number in expected
        if adds or number in expected:
            expected = [*(one for one in expected if one != number), number][-room:] if room else []
    assert cache.size == len(expected) * ENTRY
    assert (cache.hits, cache.misses) == (hits, sum(not adds for adds, _ in steps) - hits)


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = EmbeddingCache(0)
    cache.add({text_key("red"): embedded(1)})
    assert cache.find([text_key("red")]) == {}


@given(st.text(), st.text())
def test_only_equal_content_has_equal_keys(one: str, other: str) -> None:
    assert (text_key(one) == text_key(other)) == (one == other)
    data = one.encode("utf-8", "surrogatepass")
    assert image_key(data) == image_key(bytes(data)) != text_key(one)
