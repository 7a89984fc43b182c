"""The map of a library: which vectors' queries resemble each other, and how well thresholds separate them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vlibrary.domain.card import VectorRecord
from vlibrary.domain.query import Modality
from vlibrary.domain.vector import Array
from vlibrary.training.features import Features
from vlibrary.training.keys import best_scores


@dataclass(frozen=True, eq=False)
class LibraryMap:
    """Scores between the vectors of one library, for queries with an image and a text.

    Args:
        labels: name:version of each of the n vectors.
        scores: scores[i][j] holds the score of every query of vector i over the keys of vector j.
        thresholds: The score from which each vector matches; None if its card has none.
        measured: Whether each vector's queries are examples; otherwise, its task keys stand in for queries.
    """

    labels: tuple[str, ...]
    scores: tuple[tuple[Array, ...], ...]
    thresholds: tuple[float | None, ...]
    measured: tuple[bool, ...]

    @property
    def similarity(self) -> Array:
        """The mean score of row i's queries over column j's keys, [n, n]."""
        return np.array([[row.mean() for row in rows] for rows in self.scores], np.float32)

    def as_json(self) -> dict[str, Any]:
        """Return the similarities and, per vector, the shares of own and of other queries that reach its threshold."""
        vectors = []
        for at, label in enumerate(self.labels):
            own = self.scores[at][at] if self.measured[at] else np.empty(0, np.float32)
            others = self._others(at)
            vectors.append(
                {
                    "vector": label,
                    "threshold": self.thresholds[at],
                    "own_queries": len(own),
                    "own_accepted": self._acceptance(at, own),
                    "other_queries": len(others),
                    "other_accepted": self._acceptance(at, others),
                }
            )
        return {"vectors": vectors, "similarity": [[round(float(one), 4) for one in row] for row in self.similarity]}

    def _others(self, at: int) -> Array:
        rows = [scores[at] for number, scores in enumerate(self.scores) if number != at]
        return np.concatenate(rows) if rows else np.empty(0, np.float32)

    def _acceptance(self, at: int, scores: Array) -> float | None:
        threshold = self.thresholds[at]
        return None if threshold is None or not len(scores) else round(float((scores >= threshold).mean()), 4)

    def plot(self, path: Path) -> None:
        """Write the similarity map and the score distributions as an image file, by the suffix of `path`."""
        count = len(self.labels)
        figure = Figure(figsize=(10.0 + 0.4 * count, 3.5 + 0.3 * count), layout="constrained")
        similar, spread = figure.subplots(1, 2, sharey=True)
        image = similar.imshow(self.similarity, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
        figure.colorbar(image, ax=similar, shrink=0.8)
        similar.set_xticks(range(count), self.labels, rotation=90)
        similar.set_yticks(range(count), self.labels)
        similar.set_title("mean score of each row's queries over each column's keys", fontsize=10, loc="left")
        for at in range(count):
            others = self._others(at)
            spread.scatter(others, np.full(len(others), at) - 0.15, s=6, alpha=0.4, color="C7")
            if self.measured[at]:
                own = self.scores[at][at]
                spread.scatter(own, np.full(len(own), at) + 0.15, s=6, alpha=0.4, color="C0")
            if (threshold := self.thresholds[at]) is not None:
                spread.plot([threshold, threshold], [at - 0.4, at + 0.4], color="C3", linewidth=2)
        spread.set_title("scores: own queries blue, others grey, threshold red", fontsize=10, loc="left")
        spread.grid(alpha=0.3, axis="x")
        figure.savefig(path, dpi=150)


def map_library(records: Sequence[VectorRecord], queries: Mapping[str, Features]) -> LibraryMap:
    """Score every vector's queries over every vector's keys.

    Args:
        records: Vectors of one embedder, each with at least one key that has an image and a text part.
        queries: Embedded examples by name of the vector. For other vectors, their task keys stand in for queries.
    """
    keys = [_features(record) for record in records]
    queried = [queries.get(record.name, own) for record, own in zip(records, keys, strict=True)]
    return LibraryMap(
        labels=tuple(f"{record.name}:{record.version}" for record in records),
        scores=tuple(tuple(best_scores(own, each)[Modality.IMAGE_TEXT] for own in keys) for each in queried),
        thresholds=tuple(record.card.thresholds.get(Modality.IMAGE_TEXT) for record in records),
        measured=tuple(record.name in queries for record in records),
    )


def has_map_keys(record: VectorRecord) -> bool:
    """Return whether a key of the vector has both an image and a text part, which the map compares."""
    return any(key.embedding.parts == 2 for key in record.card.keys)


def _features(record: VectorRecord) -> Features:
    pairs = [
        (key.embedding.image, key.embedding.text)
        for key in record.card.keys
        if key.embedding.image is not None and key.embedding.text is not None
    ]
    images, texts = zip(*pairs, strict=True)
    return Features(np.stack(images), np.stack(texts))
