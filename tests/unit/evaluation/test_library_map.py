"""The map of a library: scores between vectors, and the share of queries that thresholds accept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.memory.worker import MODEL
from tests.support.registrations import direction, draft, upload
from vlibrary.domain.card import KeyKind, TaskKey, VectorRecord
from vlibrary.domain.query import Modality, TaskEmbedding
from vlibrary.evaluation.library_map import LibraryMap, has_map_keys, map_library
from vlibrary.training.features import Features

RNG = np.random.default_rng(0)
COLOUR, DIGIT = (direction(RNG, 16) for _ in range(2))


def record(name: str, *embeddings: TaskEmbedding) -> VectorRecord:
    keys = tuple(TaskKey(KeyKind.CENTROID, embedding) for embedding in embeddings)
    return draft(upload(), name, model=MODEL, keys=keys, thresholds={Modality.IMAGE_TEXT: 0.9})


def examples(part: np.ndarray[tuple[int], np.dtype[np.float32]], count: int) -> Features:
    return Features(np.stack([part] * count), np.stack([part] * count))


def colour_and_digit() -> LibraryMap:
    records = [record("colour", TaskEmbedding(COLOUR, COLOUR)), record("digit", TaskEmbedding(DIGIT, DIGIT))]
    return map_library(records, {"colour": examples(COLOUR, 3)})


def test_queries_of_a_vector_score_highest_on_its_own_keys() -> None:
    similarity = colour_and_digit().similarity
    assert np.allclose(np.diag(similarity), 1.0, atol=1e-5)
    assert np.allclose(similarity[0, 1], COLOUR @ DIGIT, atol=1e-5)


def test_examples_count_as_own_queries_and_keys_only_as_queries_of_others() -> None:
    colour, digit = colour_and_digit().as_json()["vectors"]
    assert colour["own_queries"] == 3
    assert colour["own_accepted"] == 1.0
    assert (colour["other_queries"], colour["other_accepted"]) == (1, 0.0)
    assert (digit["own_queries"], digit["own_accepted"]) == (0, None)
    assert (digit["other_queries"], digit["other_accepted"]) == (3, 0.0)


def test_a_vector_found_by_its_description_alone_is_not_drawn() -> None:
    assert not has_map_keys(record("described", TaskEmbedding(None, COLOUR)))
    assert has_map_keys(record("trained", TaskEmbedding(COLOUR, COLOUR)))


def test_the_map_is_drawn(tmp_path: Path) -> None:
    colour_and_digit().plot(tmp_path / "library.png")
    with Image.open(tmp_path / "library.png") as picture:
        assert picture.format == "PNG"
        assert len(set(picture.convert("RGB").get_flattened_data())) > 10
