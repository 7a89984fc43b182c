"""Query sets: a partition with one query per cluster, determined by the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlibrary.domain.example import Example
from vlibrary.domain.vector import Array
from vlibrary.methods.m2iv.distillation import default_query_count, draw_contexts, split_query_set
from vlibrary.training.errors import InvalidExamples


def _features(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


def _examples(count: int) -> list[Example]:
    return [Example(b"", f"question {number}", f"answer {number}") for number in range(count)]


@settings(max_examples=20)
@given(count=st.integers(2, 40), size=st.integers(1, 40), seed=st.integers(0, 5))
def test_queries_and_support_are_a_partition(count: int, size: int, seed: int) -> None:
    queries, support = split_query_set(_features(count, seed), size, seed)
    assert len(queries) == min(size, count)
    assert sorted([*queries.tolist(), *support.tolist()]) == list(range(count))


def test_the_seed_determines_the_split() -> None:
    features = _features(60)
    first, again, other = (split_query_set(features, 12, seed) for seed in (0, 0, 1))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_each_cluster_contributes_its_central_example() -> None:
    centres = 100 * np.eye(4, 6, dtype=np.float32)
    around = np.concatenate([centres + offset for offset in (_features(4) / 10, 0 * centres, _features(4, 1) / 10)])
    queries, _ = split_query_set(around, 4, 0)
    assert sorted(query % 4 for query in queries.tolist()) == [0, 1, 2, 3]


def test_duplicate_examples_give_one_query_each() -> None:
    features = np.repeat(_features(3), 5, axis=0)
    queries, support = split_query_set(features, 10, 0)
    assert sorted(query // 5 for query in queries.tolist()) == [0, 1, 2]
    assert len(support) == 12


@pytest.mark.parametrize(("count", "size"), [(2, 1), (21, 10), (300, 150), (1_500, 512), (6_000, 600), (90_000, 2_000)])
def test_the_default_size_has_a_minimum_and_a_maximum(count: int, size: int) -> None:
    assert default_query_count(count) == size


def test_demonstrations_come_from_the_support_set_in_two_orders() -> None:
    examples = _examples(40)
    queries, support = split_query_set(_features(40), 8, 0)
    asked, demonstrations = ([examples[at] for at in part.tolist()] for part in (queries, support))
    records = draw_contexts(asked, demonstrations, shots=6, contexts=1, seed=0)
    allowed = {each.question for each in demonstrations}
    assert [record.query for record in records] == asked
    for record in records:
        drawn, shuffled = ([each.question for each in context] for context in record.contexts)
        assert len(set(drawn)) == 6
        assert set(drawn) <= allowed
        assert sorted(drawn) == sorted(shuffled)
    assert any(record.contexts[0] != record.contexts[1] for record in records)
    assert len({record.contexts[0] for record in records}) > 1
    assert records == draw_contexts(asked, demonstrations, shots=6, contexts=1, seed=0)
    assert records != draw_contexts(asked, demonstrations, shots=6, contexts=1, seed=1)


def test_a_single_shot_gives_a_single_context() -> None:
    examples = _examples(10)
    assert all(len(record.contexts) == 1 for record in draw_contexts(examples[:3], examples[3:], 1, 1, 0))


def test_several_contexts_per_query_hold_different_examples_each_in_two_orders() -> None:
    examples = _examples(44)
    for record in draw_contexts(examples[:4], examples[4:], shots=6, contexts=3, seed=0):
        sets = [frozenset(each.question for each in context) for context in record.contexts]
        assert len(sets) == 6
        assert len(set(sets)) == 3
        assert sets[::2] == sets[1::2]


@given(count=st.integers(2, 12), seed=st.integers(0, 5))
@settings(max_examples=20)
def test_a_query_is_never_its_own_demonstration(count: int, seed: int) -> None:
    examples = _examples(count)
    records = draw_contexts(examples, examples, count - 1, 2, seed, own=np.arange(count))
    for number, record in enumerate(records):
        assert record.query == examples[number]
        assert all(set(context) == set(examples) - {record.query} for context in record.contexts)


def test_too_few_demonstrations_raise_an_error_with_the_limit() -> None:
    examples = _examples(10)
    with pytest.raises(InvalidExamples, match="at most 5 shots"):
        draw_contexts(examples[5:], examples[:5], 6, 1, 0)
    with pytest.raises(InvalidExamples, match="at most 9 shots"):
        draw_contexts(examples, examples, 10, 1, 0, own=np.arange(10))
