"""Task keys, computed from the embeddings of training queries, and the thresholds that go with them.

How the library of the M²IV paper finds vectors was not available to us; everything here is our choice.
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
MIN_MARGIN = 0.02


def centroids(queries: Features, seed: int, subcentroids: int = SUBCENTROIDS) -> Features:
    """Return the centroid of all queries (row 0) and those of up to `subcentroids` k-means clusters (further rows).

    Sub-centroids are useful because a task's queries rarely form one round cluster. A single cluster would repeat the
    centroid and is left out.
    """
    groups = [np.arange(len(queries))]
    count = min(subcentroids, len(np.unique(queries.joined, axis=0)))
    if count > 1:
        labels = KMeans(n_clusters=count, n_init=4, random_state=seed).fit_predict(queries.joined)
        groups += [np.flatnonzero(labels == label) for label in range(count)]
    images = np.stack([unit(queries.images[group].mean(axis=0)) for group in groups])
    texts = np.stack([unit(queries.texts[group].mean(axis=0)) for group in groups])
    return Features(images, texts)


def task_keys(keys: Features) -> tuple[TaskKey, ...]:
    """Convert the rows of `centroids` to keys of a card."""
    kinds = [KeyKind.CENTROID] + [KeyKind.SUBCENTROID] * (len(keys) - 1)
    return tuple(
        TaskKey(kind, TaskEmbedding(image=image, text=text))
        for kind, image, text in zip(kinds, keys.images, keys.texts, strict=True)
    )


def thresholds(keys: Features, validation: Features) -> Mapping[Modality, float]:
    """Return, per modality, the score from which a query is accepted as one of this task.

    The threshold is q - max(0.02, m - q), where q is the 5 % quantile and m the median of the validation queries'
    best scores. The quantile alone would reject one genuine query in twenty, and is itself uncertain because it rests
    on few queries; the margin m - q grows with that uncertainty. Its minimum covers tasks whose questions are nearly
    identical, where the spread is zero. On the bundled tasks, these thresholds accept at least 98 % of new queries of
    the task and, with a text, at most 0.1 % of the others; with half the margin, up to 9 % of new queries were lost.

    Args:
        keys: Rows of `centroids`.
        validation: Queries of the task that were not used for the keys.
    """
    result = {}
    for modality, best in best_scores(keys, validation).items():
        low, median = np.quantile(best, [QUANTILE, 0.5])
        margin = max(MIN_MARGIN, float(median - low))
        result[modality] = float(np.clip(low - margin, -1.0, 1.0))
    return MappingProxyType(result)


def best_scores(keys: Features, queries: Features) -> Mapping[Modality, Array]:
    """Return, per modality, each query's highest score over the keys, [N]; the batched form of domain.query.score."""
    image = queries.images @ keys.images.T
    text = queries.texts @ keys.texts.T
    pairs = {Modality.IMAGE: image, Modality.TEXT: text, Modality.IMAGE_TEXT: (image + text) / 2}
    return MappingProxyType({modality: scores.max(axis=1) for modality, scores in pairs.items()})
