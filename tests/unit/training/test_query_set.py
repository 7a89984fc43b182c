"""Query sets: a partition of the examples, one per cluster, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlibrary.domain.example import Example
from vlibrary.domain.vector import Array
from vlibrary.methods.m2iv.query_set import default_size, make_records, split
from vlibrary.training.errors import InvalidExamples


def _features(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


def _examples(count: int) -> list[Example]:
    return [Example(b"", f"question {number}", f"answer {number}") for number in range(count)]


@settings(max_examples=20)
@given(count=st.integers(2, 40), size=st.integers(1, 40), seed=st.integers(0, 5))
def test_queries_and_support_are_a_partition(count: int, size: int, seed: int) -> None:
    queries, support = split(_features(count, seed), size, seed)
    assert len(queries) == min(size, count)
    assert sorted([*queries.tolist(), *support.tolist()]) == list(range(count))


def test_the_same_seed_gives_the_same_split() -> None:
    features = _features(60)
    first, again, other = split(features, 12, 0), split(features, 12, 0), split(features, 12, 1)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_every_cluster_sends_its_middle() -> None:
    centres = 100 * np.eye(4, 6, dtype=np.float32)
    around = np.concatenate([centres + offset for offset in (_features(4) / 10, 0 * centres, _features(4, 1) / 10)])
    queries, _ = split(around, 4, 0)
    assert sorted(query % 4 for query in queries.tolist()) == [0, 1, 2, 3]


def test_equal_examples_give_one_query_each_kind() -> None:
    features = np.repeat(_features(3), 5, axis=0)
    queries, support = split(features, 10, 0)
    assert sorted(query // 5 for query in queries.tolist()) == [0, 1, 2]
    assert len(support) == 12


@pytest.mark.parametrize(("count", "size"), [(2, 1), (21, 10), (300, 150), (1_500, 512), (6_000, 600), (90_000, 2_000)])
def test_the_default_size_has_a_floor_and_a_ceiling(count: int, size: int) -> None:
    assert default_size(count) == size


def test_demonstrations_come_from_the_support_in_two_orders() -> None:
    examples = _examples(40)
    queries, support = split(_features(40), 8, 0)
    records = make_records(examples, queries, support, shots=6, seed=0)
    allowed = {examples[place].question for place in support.tolist()}
    assert [record.query for record in records] == [examples[query] for query in queries.tolist()]
    for record in records:
        drawn, shuffled = ([each.question for each in context] for context in record.contexts)
        assert len(set(drawn)) == 6
        assert set(drawn) <= allowed
        assert sorted(drawn) == sorted(shuffled)
    assert any(record.contexts[0] != record.contexts[1] for record in records)
    assert len({record.contexts[0] for record in records}) > 1
    assert records == make_records(examples, queries, support, shots=6, seed=0)
    assert records != make_records(examples, queries, support, shots=6, seed=1)


def test_a_single_shot_has_no_other_order() -> None:
    queries, support = split(_features(10), 3, 0)
    assert all(len(record.contexts) == 1 for record in make_records(_examples(10), queries, support, 1, 0))


def test_too_small_a_support_is_an_error_that_names_the_most_shots() -> None:
    queries, support = split(_features(10), 5, 0)
    with pytest.raises(InvalidExamples, match="at most 5 shots"):
        make_records(_examples(10), queries, support, 6, 0)
