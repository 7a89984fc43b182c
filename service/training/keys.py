"""Where a vector is found: task keys from its training queries, and the least score at which it fits.

Neither M²IV's own library nor its thresholds are public; everything here is our choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from sklearn.cluster import KMeans

from vlibrary.domain.card import KeyKind, TaskKey
from vlibrary.domain.query import Modality, TaskEmbedding, unit
from vlibrary.domain.vector import Array
from vlibrary.training.features import Features

SUBCENTROIDS = 4
QUANTILE = 0.05
LEAST_MARGIN = 0.02


def centres(queries: Features, seed: int, subcentroids: int = SUBCENTROIDS) -> Features:
    """Row 0: the centroid of all queries; further rows: those of up to `subcentroids` k-means clusters.

    Sub-centroids, because a task's queries are seldom one round cloud; a single cluster would repeat the centroid.
    """
    groups = [np.arange(len(queries))]
    count = min(subcentroids, len(np.unique(queries.joined, axis=0)))
    if count > 1:
        labels = KMeans(n_clusters=count, n_init=4, random_state=seed).fit_predict(queries.joined)
        groups += [np.flatnonzero(labels == label) for label in range(count)]
    images = np.stack([unit(queries.images[group].mean(axis=0)) for group in groups])
    texts = np.stack([unit(queries.texts[group].mean(axis=0)) for group in groups])
    return Features(images, texts)


def task_keys(middles: Features) -> tuple[TaskKey, ...]:
    """The rows of `centres` as the card's keys."""
    kinds = [KeyKind.CENTROID] + [KeyKind.SUBCENTROID] * (len(middles) - 1)
    return tuple(
        TaskKey(kind, TaskEmbedding(image=image, text=text))
        for kind, image, text in zip(kinds, middles.images, middles.texts, strict=True)
    )


def thresholds(middles: Features, held_back: Features) -> Mapping[Modality, float]:
    """The least score per modality at which a query counts as one of this task's.

    held_back: queries of the task that made no key. Their 5 % quantile, less a margin of the distance from there to
    their median, and of 0.02 at least. The quantile alone would turn away one genuine query in twenty, and it is
    itself uncertain, as it rests on a few queries; the margin grows with the spread that causes that. Its floor is
    for tasks whose questions are nearly all alike, where the spread is nil. On the bundled tasks the margin takes
    98 % or more of new queries of the task and, with a text, at most 0.1 % of the others'; half of it lost up to 9 %.
    """
    least = {}
    for modality, best in best_scores(middles, held_back).items():
        low, median = np.quantile(best, [QUANTILE, 0.5])
        margin = max(LEAST_MARGIN, float(median - low))
        least[modality] = float(np.clip(low - margin, -1.0, 1.0))
    return MappingProxyType(least)


def best_scores(middles: Features, queries: Features) -> Mapping[Modality, Array]:
    """Per modality, each query's score at its best key [N]: domain.query.score for all pairs at once."""
    image = queries.images @ middles.images.T
    text = queries.texts @ middles.texts.T
    pairs = {Modality.IMAGE: image, Modality.TEXT: text, Modality.IMAGE_TEXT: (image + text) / 2}
    return MappingProxyType({modality: scores.max(axis=1) for modality, scores in pairs.items()})
