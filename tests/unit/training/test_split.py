"""The split of examples: no image in two parts, and errors for data that cannot be split or measured."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlibrary.domain.example import Example
from vlibrary.methods.base import TaskData, split_examples
from vlibrary.training.errors import InvalidExamples


def _rows(images: list[int]) -> list[Example]:
    return [
        Example(f"image {image}".encode(), f"question {number}", str(number % 7)) for number, image in enumerate(images)
    ]


def _parts(data: TaskData) -> list[set[bytes]]:
    return [{each.image for each in part} for part in (data.train, data.validation, data.test)]


@given(images=st.lists(st.integers(0, 30), min_size=10, max_size=120), seed=st.integers(0, 3))
def test_no_image_is_in_two_parts_and_no_row_is_lost(images: list[int], seed: int) -> None:
    rows = _rows(images)
    if len(set(images)) < 3:
        with pytest.raises(InvalidExamples, match="different images"):
            split_examples(rows, seed)
        return
    data = split_examples(rows, seed)
    train, validation, test = _parts(data)
    assert all((train, validation, test))
    assert len(train) + len(validation) + len(test) == len(set(images))
    assert Counter([*data.train, *data.validation, *data.test]) == Counter(rows)


@given(count=st.integers(10, 300), seed=st.integers(0, 3))
def test_single_images_give_the_shares_exactly(count: int, seed: int) -> None:
    data = split_examples(_rows(list(range(count))), seed)
    assert len(data.validation) == max(1, round(0.1 * count))
    assert len(data.test) == max(1, round(0.2 * count))


def test_a_memory_of_random_labels_scores_at_chance_on_the_test_part() -> None:
    """Rows that repeat an image leaked its label: with a split by rows, this memory scored far above chance."""
    rng = np.random.default_rng(0)
    labels = rng.integers(6, size=60)
    rows = [Example(str(row % 60).encode(), "Which?", str(labels[row % 60])) for row in range(600)]
    data = split_examples(rows, seed=0)
    memory = {example.image: example.answer for example in data.train}
    guesses = [memory.get(example.image, str(rng.integers(6))) for example in data.test]
    score = np.mean([guess == example.answer for guess, example in zip(guesses, data.test, strict=True)])
    assert score < 0.3


def test_answers_that_are_all_the_same_are_refused() -> None:
    rows = [Example(str(number).encode(), "Which?", "red") for number in range(40)]
    with pytest.raises(InvalidExamples, match="All 40 examples have the answer 'red'"):
        split_examples(rows, seed=0)


def test_a_test_set_that_shares_an_image_is_refused() -> None:
    rows = _rows(list(range(30)))
    with pytest.raises(InvalidExamples, match="2 images of the test set are among the training examples"):
        split_examples(rows[:22], seed=0, test=rows[20:])
