"""The scales by which cosines with a task's keys become probabilities."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlibrary.bundled.background import background_pictures, background_texts
from vlibrary.bundled.tasks import encode_png
from vlibrary.domain.matching.calibration import Calibration, PartScale
from vlibrary.domain.query import Modality
from vlibrary.domain.vector import Array
from vlibrary.models.embedder import Embedder
from vlibrary.training.features import Features
from vlibrary.training.keys import choose_exemplars, task_keys, thresholds

# Own queries that may lie below a scale's upper end, and unrelated ones that may lie above its lower end.
TAIL = 0.05
_PICTURES = 90


def find_by(embedder: Embedder, queries: Features, validation: Features) -> dict[str, Any]:
    """Return the fields of a card by which its vector is found: embedder, keys, calibration and thresholds.

    Args:
        embedder: The one that computed the features.
        queries: The task's queries.
        validation: Further queries of the task.
    """
    exemplars = choose_exemplars(queries)
    return {
        "embedder": embedder.spec.fingerprint,
        "keys": task_keys(exemplars),
        "calibration": calibrate(exemplars, queries + validation, embed_background(embedder)),
        "thresholds": thresholds(exemplars, validation),
    }


def embed_background(embedder: Embedder) -> Features:
    """Return unrelated queries; their number of images differs from that of their texts."""
    pictures, _ = background_pictures(_PICTURES, seed=0)
    images = embedder.embed_images([encode_png(np.asarray(picture)) for picture in pictures])
    return Features(images, embedder.embed_texts(background_texts()))


def calibrate(exemplars: Features, queries: Features, background: Features) -> Calibration:
    """Return the scale of each part.

    Each query is compared with the exemplars but not with itself; a query of another wording or image that is the only
    one of its kind thus counts as one that the exemplars do not have.

    Args:
        exemplars: From `choose_exemplars`.
        queries: The task's queries, the exemplars among them.
        background: From `embed_background`.
    """
    parts = {
        Modality.IMAGE: (exemplars.images, queries.images, background.images),
        Modality.TEXT: (exemplars.texts, queries.texts, background.texts),
    }
    itself = (queries.joined @ exemplars.joined.T) >= 2 - 1e-4
    return MappingProxyType({part: _scale(keys, own, others, itself) for part, (keys, own, others) in parts.items()})


def _scale(keys: Array, own: Array, others: Array, itself: NDArray[np.bool_]) -> PartScale:
    cosines = np.where(itself, -1.0, own @ keys.T).max(axis=1)
    cosines = cosines if len(keys) > 1 else np.ones(1)  # a single query's distance to others is not known
    return PartScale(
        own=float(np.clip(np.quantile(cosines, TAIL), -1, 1)),
        unrelated=float(np.clip(np.quantile((others @ keys.T).max(axis=1), 1 - TAIL), -1, 1)),
    )
