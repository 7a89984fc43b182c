"""Queries, embeddings and the score of a key."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlibrary.domain.errors import InvalidQuery
from vlibrary.domain.query import EmbedderSpec, Modality, Query, TaskEmbedding, score, unit
from vlibrary.domain.vector import Array

SPEC = EmbedderSpec("tests/embedder", "b" * 64, image_size=3, text_size=2)
IMAGE: Array = np.array([1, 0, 0], np.float32)
TEXT: Array = np.array([0, 1], np.float32)
BOTH = TaskEmbedding(IMAGE, TEXT)


def units(size: int) -> st.SearchStrategy[Array]:
    numbers = st.lists(st.integers(-9, 9), min_size=size, max_size=size).filter(any)
    return numbers.map(lambda values: unit(np.array(values, np.float32)))


def embeddings() -> st.SearchStrategy[TaskEmbedding]:
    image, text = units(SPEC.image_size), units(SPEC.text_size)
    return st.one_of(
        st.builds(TaskEmbedding, image, text), st.builds(TaskEmbedding, image), st.builds(TaskEmbedding, text=text)
    )


class TestQuery:
    def test_modality_follows_from_the_parts(self) -> None:
        assert Query(text="red?").modality is Modality.TEXT
        assert Query(images=(b"png",)).modality is Modality.IMAGE
        assert Query(text="red?", images=(b"png",)).modality is Modality.IMAGE_TEXT

    def test_blank_text_becomes_none(self) -> None:
        assert Query(text=" \n", images=(b"png",)).modality is Modality.IMAGE

    @pytest.mark.parametrize("text", [None, "", " \t"])
    def test_an_empty_query_is_refused(self, text: str | None) -> None:
        with pytest.raises(InvalidQuery):
            Query(text=text)


class TestRow:
    def test_row_concatenates_the_parts(self) -> None:
        row = BOTH.row(SPEC)
        assert row.dtype == np.float32
        assert row.tolist() == [1, 0, 0, 0, 1]

    def test_a_missing_part_is_zeros(self) -> None:
        assert TaskEmbedding(text=TEXT).row(SPEC).tolist() == [0, 0, 0, 0, 1]
        assert TaskEmbedding(image=IMAGE).row(SPEC).tolist() == [1, 0, 0, 0, 0]


class TestUnit:
    def test_unit_keeps_the_direction(self) -> None:
        assert unit(np.array([3, 4], np.float32)).tolist() == pytest.approx([0.6, 0.8])

    @pytest.mark.parametrize("values", [[0, 0], [np.nan, 1], [np.inf, 1]])
    def test_zero_and_non_finite_vectors_are_refused(self, values: list[float]) -> None:
        with pytest.raises(InvalidQuery):
            unit(np.array(values, np.float32))


class TestScore:
    def test_score_is_the_mean_cosine_of_the_query_s_parts(self) -> None:
        tilted = TaskEmbedding(IMAGE, unit(np.array([1, 1], np.float32)))
        assert score(BOTH, tilted, SPEC) == pytest.approx((1 + np.sqrt(0.5)) / 2)
        assert score(TaskEmbedding(text=TEXT), tilted, SPEC) == pytest.approx(np.sqrt(0.5))
        assert score(TaskEmbedding(image=IMAGE), tilted, SPEC) == pytest.approx(1)

    def test_a_part_that_the_key_lacks_counts_as_zero(self) -> None:
        assert score(BOTH, TaskEmbedding(text=TEXT), SPEC) == pytest.approx(0.5)
        assert score(TaskEmbedding(image=IMAGE), TaskEmbedding(text=TEXT), SPEC) == 0

    def test_a_part_that_only_the_key_has_is_ignored(self) -> None:
        query = TaskEmbedding(text=TEXT)
        assert score(query, BOTH, SPEC) == score(query, TaskEmbedding(text=TEXT), SPEC)

    @given(query=embeddings(), key=embeddings())
    def test_score_is_between_minus_one_and_one(self, query: TaskEmbedding, key: TaskEmbedding) -> None:
        assert -1 - 1e-6 <= score(query, key, SPEC) <= 1 + 1e-6

    @given(query=embeddings())
    def test_the_query_itself_scores_highest(self, query: TaskEmbedding) -> None:
        assert score(query, query, SPEC) == pytest.approx(1)

    @given(query=embeddings(), key=embeddings())
    def test_the_negated_key_scores_the_negated_score(self, query: TaskEmbedding, key: TaskEmbedding) -> None:
        image = None if key.image is None else -key.image
        text = None if key.text is None else -key.text
        assert score(query, TaskEmbedding(image, text), SPEC) == pytest.approx(-score(query, key, SPEC))
