"""Synthetic keys of a library: tasks grouped in topics, several keys per task, and queries near some of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlibrary.domain.card import KeyKind, TaskKey
from vlibrary.domain.changes import Change, ChangeKind
from vlibrary.domain.query import EmbedderSpec, TaskEmbedding
from vlibrary.domain.vector import Array

PART = 256  # of a row's 512 numbers, the first half is the image's and the other the text's
SPEC = EmbedderSpec("bench/embedder", "b" * 64, PART, PART)
MODEL = "bench/lvlm"
KEYS = 10  # of a vector: nine with both parts, and a description of text alone
BUCKETS = 100
_TOPICS = 500


@dataclass(frozen=True, eq=False)
class Tasks:
    """The centre of each task's training queries: image and text parts [n, PART]."""

    image: Array
    text: Array

    @classmethod
    def random(cls, count: int, rng: np.random.Generator) -> Tasks:
        topics = rng.integers(_TOPICS, size=count)
        image, text = (directions(rng, (_TOPICS, PART))[topics] for _ in range(2))
        return cls(_near(rng, image, 1.0), _near(rng, text, 1.0))

    def __len__(self) -> int:
        return len(self.image)

    def rows(self, tasks: slice, rng: np.random.Generator) -> Array:
        """Return the keys of these tasks, grouped by task: [tasks · KEYS, 2 · PART]."""
        image, text = (np.repeat(part[tasks], KEYS, axis=0) for part in (self.image, self.text))
        image, text = _near(rng, image, 0.5), _near(rng, text, 0.6)
        image[KEYS - 1 :: KEYS] = 0
        return np.concatenate([image, text], axis=1)

    def queries(self, count: int, rng: np.random.Generator) -> list[TaskEmbedding]:
        """Return queries: a third each with both parts, with an image only, and with text only."""
        chosen = rng.integers(len(self), size=count)
        pairs = zip(_near(rng, self.image[chosen], 0.8), _near(rng, self.text[chosen], 0.8), strict=True)
        return [
            TaskEmbedding(image if number % 3 != 2 else None, text if number % 3 != 1 else None)
            for number, (image, text) in enumerate(pairs)
        ]


def vector_id(number: int) -> str:
    return f"01BENCH{number:019}"


def changes(tasks: Tasks, rng: np.random.Generator, batch: int = 1_000) -> Iterator[list[Change]]:
    """Yield the change log that publishes all tasks."""
    for start in range(0, len(tasks), batch):
        rows = tasks.rows(slice(start, start + batch), rng)
        yield [
            Change(
                start + number + 1,
                ChangeKind.PUBLISHED,
                vector_id(start + number),
                MODEL,
                keys_of(rows[number * KEYS : (number + 1) * KEYS]),
                SPEC.fingerprint,
                registered=start + number + 1,
            )
            for number in range(len(rows) // KEYS)
        ]


def keys_of(rows: Array) -> tuple[TaskKey, ...]:
    return tuple(
        TaskKey(KeyKind.SUBCENTROID, TaskEmbedding(row[:PART] if row[0] else None, row[PART:])) for row in rows
    )


def directions(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Random rows of length 1."""
    return _unit(rng.normal(size=shape).astype(np.float32))


def _near(rng: np.random.Generator, rows: Array, distance: float) -> Array:
    return _unit(rows + np.float32(distance) * directions(rng, rows.shape))


def _unit(rows: npt.NDArray[np.float32]) -> Array:
    scaled: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled
