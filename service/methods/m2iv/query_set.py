"""Which examples become queries and which become demonstrations.

k-means over [image ‖ question] features; the example nearest each centroid joins the query set, all others are the
support set from which demonstrations are drawn: a third party's re-implementation of M²IV, and TACO (2505.17098),
do it so. The paper's own sizes are not public: the default size is our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans

from vlibrary.domain.example import Example
from vlibrary.domain.vector import Array
from vlibrary.training.errors import InvalidExamples

MOST_QUERIES = 2_000
FLOOR = 512
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Record:
    """One query with the demonstration lists (contexts) under which the teacher answers it."""

    query: Example
    contexts: tuple[tuple[Example, ...], ...]


def default_size(count: int) -> int:
    """min(2000, count / 10), as for the paper's data sets; small sets keep up to 512 queries, at most half of all.

    The floor is our choice: with few queries the vector learns them by heart. On the bundled position-code, 128, 300
    and 500 queries gave 0.96, 0.985 and 0.998 on unseen images (mean of two seeds).
    """
    return min(MOST_QUERIES, max(count // 10, min(count // 2, FLOOR)))


def split(features: Array, size: int, seed: int) -> tuple[Indices, Indices]:
    """Indices of the query set and of the support set: disjoint, together everything, each in ascending order.

    features: [N, f]. The query set has `size` members, or fewer when there are fewer different features.
    """
    clusters = min(size, len(np.unique(features, axis=0)))
    model = KMeans(n_clusters=clusters, n_init=1, max_iter=50, random_state=seed).fit(features)
    distance = _squared_distances(features, np.asarray(model.cluster_centers_, dtype=np.float32))
    queries = np.sort(_nearest_each(distance))
    support = np.setdiff1d(np.arange(len(features)), queries)
    return queries, support


def make_records(
    examples: Sequence[Example], queries: Indices, support: Indices, shots: int, seed: int
) -> tuple[Record, ...]:
    """A record per query: `shots` demonstrations drawn without replacement, and the same ones in another order.

    A query's demonstrations depend on the seed and its place only. Raises InvalidExamples when support is too small.
    """
    if len(support) < shots:
        raise InvalidExamples(
            f"{len(examples)} examples leave {len(support)} to demonstrate with, but a prompt takes {shots}.",
            f"Add examples, or train with at most {len(support)} shots.",
        )
    return tuple(_record(examples, query, support, shots, seed) for query in queries.tolist())


def _record(examples: Sequence[Example], query: int, support: Indices, shots: int, seed: int) -> Record:
    rng = np.random.default_rng([seed, query])
    drawn = rng.choice(support, size=shots, replace=False)
    orders = (drawn, rng.permutation(drawn)) if shots > 1 else (drawn,)
    contexts = tuple(tuple(examples[place] for place in order.tolist()) for order in orders)
    return Record(examples[query], contexts)


def _squared_distances(features: Array, centres: Array) -> Array:
    """[N, K] without an [N, K, f] intermediate."""
    squares = (features**2).sum(1)[:, None] + (centres**2).sum(1)[None]
    return np.asarray(squares - 2 * features @ centres.T, dtype=np.float32)


def _nearest_each(distance: Array) -> Indices:
    """For each column the nearest row that no earlier column took, so that K centroids give K members."""
    free = np.array(distance)
    taken = np.empty(distance.shape[1], dtype=np.int64)
    for centre in range(distance.shape[1]):
        taken[centre] = int(free[:, centre].argmin())
        free[taken[centre]] = np.inf
    return taken
