"""Task keys and thresholds: they take their own task's queries and turn others away."""

from __future__ import annotations

import numpy as np
import pytest

from vlibrary.domain.card import KeyKind, VectorCard
from vlibrary.domain.query import EmbedderSpec, Modality, TaskEmbedding, score
from vlibrary.domain.vector import Array
from vlibrary.training.features import Features
from vlibrary.training.keys import best_scores, centres, task_keys, thresholds

SPEC = EmbedderSpec("test", "f", image_size=8, text_size=6)


def _cloud(size: int, count: int, axes: list[int], spread: float, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    rows = np.eye(size)[rng.choice(axes, count)] + spread * rng.normal(size=(count, size))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def _task(axes: list[int], count: int = 60, spread: float = 0.1, seed: int = 0) -> Features:
    return Features(_cloud(8, count, axes, spread, seed), _cloud(6, count, axes, spread, seed + 100))


def test_keys_are_unit_vectors_that_the_card_accepts() -> None:
    keys = task_keys(centres(_task([0, 1, 2]), seed=0))
    assert [key.kind for key in keys] == [KeyKind.CENTROID] + [KeyKind.SUBCENTROID] * 4
    VectorCard("name", embedder=SPEC.fingerprint, keys=keys).check_keys(SPEC)


def test_a_task_of_equal_queries_has_one_key() -> None:
    one = _task([0], count=1)
    same = Features(np.repeat(one.images, 9, axis=0), np.repeat(one.texts, 9, axis=0))
    assert [key.kind for key in task_keys(centres(same, seed=0))] == [KeyKind.CENTROID]


def test_scores_are_those_of_the_library() -> None:
    middles, queries = centres(_task([0, 1]), seed=0), _task([0, 1], count=5, seed=1)
    keys = task_keys(middles)
    scores = best_scores(middles, queries)
    for number in range(5):
        image, text = queries.images[number], queries.texts[number]
        asked = {
            Modality.IMAGE: TaskEmbedding(image=image),
            Modality.TEXT: TaskEmbedding(text=text),
            Modality.IMAGE_TEXT: TaskEmbedding(image=image, text=text),
        }
        for modality, query in asked.items():
            expected = max(score(query, key.embedding, SPEC) for key in keys)
            assert scores[modality][number] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_take_new_queries_of_the_task_and_turn_others_away(seed: int) -> None:
    middles = centres(_task([0, 1], seed=seed), seed)
    least = thresholds(middles, _task([0, 1], seed=seed + 10))
    own = best_scores(middles, _task([0, 1], count=200, seed=seed + 20))
    others = best_scores(middles, _task([2, 3], count=200, seed=seed + 30))
    assert set(least) == set(Modality)
    for modality in Modality:
        assert (own[modality] >= least[modality]).mean() > 0.95
        assert (others[modality] < least[modality]).all()


def test_questions_that_are_all_alike_still_leave_room_for_a_new_wording() -> None:
    features = _task([0], spread=0.0)
    least = thresholds(centres(features, seed=0), features)
    assert least[Modality.TEXT] == pytest.approx(0.98)


def test_the_same_seed_gives_the_same_keys() -> None:
    first, again = centres(_task([0, 1]), seed=3), centres(_task([0, 1]), seed=3)
    assert np.array_equal(first.joined, again.joined)
