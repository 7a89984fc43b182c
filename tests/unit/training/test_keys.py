"""Task keys and thresholds: they accept queries of their own task and reject others."""

from __future__ import annotations

import numpy as np
import pytest

from vlibrary.domain.card import KeyKind, VectorCard
from vlibrary.domain.query import EmbedderSpec, Modality, TaskEmbedding, score
from vlibrary.domain.vector import Array
from vlibrary.training.features import Features
from vlibrary.training.keys import EXEMPLARS, best_scores, choose_exemplars, task_keys, thresholds

SPEC = EmbedderSpec("test", "f", image_size=8, text_size=6)


def _cluster(size: int, count: int, axes: list[int], spread: float, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    rows = np.eye(size)[rng.choice(axes, count)] + spread * rng.normal(size=(count, size))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def _task(axes: list[int], count: int = 60, spread: float = 0.1, seed: int = 0) -> Features:
    return Features(_cluster(8, count, axes, spread, seed), _cluster(6, count, axes, spread, seed + 100))


def test_keys_are_training_queries_that_the_card_accepts() -> None:
    queries = _task([0, 1, 2], count=80)
    exemplars = choose_exemplars(queries)
    assert len(exemplars) == EXEMPLARS
    assert (queries.joined @ exemplars.joined.T).max(axis=0) == pytest.approx(np.full(EXEMPLARS, 2.0), abs=1e-5)
    keys = task_keys(exemplars)
    assert {key.kind for key in keys} == {KeyKind.EXEMPLAR}
    VectorCard("name", embedder=SPEC.fingerprint, keys=keys).check_keys(SPEC)


def test_identical_queries_give_a_single_key() -> None:
    one = _task([0], count=1)
    same = Features(np.repeat(one.images, 9, axis=0), np.repeat(one.texts, 9, axis=0))
    assert len(choose_exemplars(same)) == 1


def test_a_rare_kind_of_query_is_among_the_exemplars() -> None:
    usual, rare = _task([0], count=200, spread=0.02), _task([4], count=1, spread=0.02)
    exemplars = choose_exemplars(usual + rare, count=4)
    assert (exemplars.joined @ rare.joined[0]).max() == pytest.approx(2.0, abs=1e-5)


def test_the_order_of_the_queries_does_not_change_the_exemplars() -> None:
    queries = _task([0, 1], count=30)
    shuffled = Features(queries.images[::-1], queries.texts[::-1])
    first, again = (choose_exemplars(one, count=8).joined for one in (queries, shuffled))
    assert np.allclose(sorted(first.tolist()), sorted(again.tolist()))


def test_batch_scores_equal_the_librarys_scores() -> None:
    rows, queries = choose_exemplars(_task([0, 1]), count=5), _task([0, 1], count=5, seed=1)
    keys = task_keys(rows)
    scores = best_scores(rows, queries)
    for number in range(5):
        image, text = queries.images[number], queries.texts[number]
        by_modality = {
            Modality.IMAGE: TaskEmbedding(image=image),
            Modality.TEXT: TaskEmbedding(text=text),
            Modality.IMAGE_TEXT: TaskEmbedding(image=image, text=text),
        }
        for modality, query in by_modality.items():
            expected = max(score(query, key.embedding, SPEC) for key in keys)
            assert scores[modality][number] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_accept_new_queries_and_reject_other_tasks(seed: int) -> None:
    keys = choose_exemplars(_task([0, 1], seed=seed))
    limits = thresholds(keys, _task([0, 1], seed=seed + 10))
    own = best_scores(keys, _task([0, 1], count=200, seed=seed + 20))
    others = best_scores(keys, _task([2, 3], count=200, seed=seed + 30))
    assert set(limits) == set(Modality)
    for modality in Modality:
        assert (own[modality] >= limits[modality]).mean() > 0.95
        assert (others[modality] < limits[modality]).all()


def test_identical_questions_keep_a_margin_for_new_wordings() -> None:
    features = _task([0], spread=0.0)
    limits = thresholds(choose_exemplars(features), features)
    assert limits[Modality.TEXT] == pytest.approx(0.98)
