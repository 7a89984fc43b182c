"""Task keys: training queries, and the thresholds that go with them on cards without a calibration.

How the library of the M²IV paper finds vectors was not available to us; everything here is our choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from vlibrary.domain.card import KeyKind, TaskKey
from vlibrary.domain.query import Modality, TaskEmbedding
from vlibrary.domain.vector import Array
from vlibrary.training.features import Features

EXEMPLARS = 32
QUANTILE = 0.05
MIN_MARGIN = 0.02


def choose_exemplars(queries: Features, count: int = EXEMPLARS) -> Features:
    """Return up to `count` of the queries that lie close to all others, without duplicates.

    Each one is the query that is farthest from those before it (Gonzalez, 1985), so that rare wordings and rare kinds
    of images are among them; the first is the one closest to the mean.
    """
    rows = queries.joined
    chosen = [int((rows @ rows.mean(0)).argmax())]
    closest = rows @ rows[chosen[0]]
    # The cosine of a query with itself is 2, one for each part.
    while len(chosen) < min(count, len(rows)) and closest.min() < 2 - 1e-4:
        chosen.append(int(closest.argmin()))
        closest = np.maximum(closest, rows @ rows[chosen[-1]])
    return Features(queries.images[chosen], queries.texts[chosen])


def task_keys(exemplars: Features) -> tuple[TaskKey, ...]:
    """Return the keys of a card."""
    return tuple(
        TaskKey(KeyKind.EXEMPLAR, TaskEmbedding(image=image, text=text))
        for image, text in zip(exemplars.images, exemplars.texts, strict=True)
    )


def thresholds(keys: Features, validation: Features) -> Mapping[Modality, float]:
    """Return, per modality, the score from which a query is accepted as one of this task.

    The threshold is q - max(0.02, m - q), where q is the 5 % quantile and m the median of the validation queries'
    best scores. The quantile alone would reject one genuine query in twenty, and is itself uncertain because it rests
    on few queries; the margin m - q grows with that uncertainty. Its minimum covers tasks whose questions are nearly
    identical, where the spread is zero. On the bundled tasks, these thresholds accept at least 98 % of new queries of
    the task and, with a text, at most 0.1 % of the others; with half the margin, up to 9 % of new queries were lost.

    Args:
        keys: From `choose_exemplars`.
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
