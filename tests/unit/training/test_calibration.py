"""Scales of a task's parts: what its own queries reach, and what unrelated queries reach."""

from __future__ import annotations

import numpy as np
import pytest

from vlibrary.bundled.background import background_pictures, background_texts
from vlibrary.domain.query import Modality
from vlibrary.domain.vector import Array
from vlibrary.training.calibration import calibrate
from vlibrary.training.features import Features
from vlibrary.training.keys import choose_exemplars


def _rows(axis: int, count: int, spread: float, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    rows = np.eye(8)[[axis] * count] + spread * rng.normal(size=(count, 8))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _queries(axis: int, count: int, spread: float = 0.1) -> Features:
    return Features(_rows(axis, count, spread, 0), _rows(axis, count, spread, 1))


@pytest.mark.parametrize("count", [3, 12, 100])
def test_new_queries_of_the_task_lie_near_the_upper_end(count: int) -> None:
    queries = _queries(0, count)
    exemplars = choose_exemplars(queries)
    scale = calibrate(exemplars, queries, _queries(5, 50))[Modality.IMAGE]
    new = (_rows(0, 200, 0.1, 9) @ exemplars.images.T).max(axis=1)
    assert np.mean([scale.level(float(one)) for one in new]) > 0.9
    assert scale.unrelated < 0.6 < scale.own


def test_a_scale_leaves_out_the_farthest_own_and_the_closest_unrelated_queries() -> None:
    keys = np.eye(8, dtype=np.float32)[[0, 7]]

    def at_cosines(cosines: Array) -> Features:
        rows = np.zeros((len(cosines), 8), np.float32)
        rows[:, 0], rows[:, 1] = cosines, np.sqrt(1 - cosines**2)
        return Features(rows, rows)

    own, unrelated = (np.linspace(low, low + 0.4, 21, dtype=np.float32) for low in (0.5, 0.0))
    scale = calibrate(Features(keys, keys), at_cosines(own), at_cosines(unrelated))[Modality.TEXT]
    assert scale.own == pytest.approx(0.52)
    assert scale.unrelated == pytest.approx(0.38)


def test_a_query_is_not_compared_with_itself() -> None:
    apart = Features(np.eye(8, dtype=np.float32), np.eye(8, dtype=np.float32))
    scales = calibrate(choose_exemplars(apart), apart, _queries(5, 50))
    assert all(scale.own == pytest.approx(0.0) for scale in scales.values())


def test_a_single_example_gives_a_scale() -> None:
    one = _queries(0, 1)
    assert calibrate(one, one, _queries(5, 50))[Modality.TEXT].own == 1.0


def test_repeated_questions_have_the_cosine_of_equal_texts() -> None:
    queries = Features(_rows(0, 20, 0.1, 0), np.repeat(_rows(1, 1, 0.0, 0), 20, axis=0))
    scales = calibrate(choose_exemplars(queries), queries, _queries(5, 50))
    assert scales[Modality.TEXT].own == pytest.approx(1.0, abs=1e-6)
    assert scales[Modality.IMAGE].own < 1.0


def test_the_background_is_the_same_every_time() -> None:
    first, again = background_pictures(20, seed=3)[0], background_pictures(20, seed=3)[0]
    assert [one.tobytes() for one in first] == [one.tobytes() for one in again]
    texts = background_texts()
    assert len(texts) == len(set(texts)) > 150
    assert all(text.strip() for text in texts)
