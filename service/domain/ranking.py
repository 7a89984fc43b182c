"""What every task index does alike: which changes are news, which keys can be compared, how hits are ranked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vlibrary.domain.card import TaskKey
from vlibrary.domain.changes import Change, LogPosition
from vlibrary.domain.errors import InvalidQuery
from vlibrary.domain.ports.task_index import Hit, IndexGap
from vlibrary.domain.query import EmbedderSpec, TaskEmbedding
from vlibrary.domain.vector import Array


def follow(position: LogPosition | None, changes: Sequence[Change]) -> tuple[LogPosition, list[Change]]:
    """The position after these changes, and those among them that are new. Raises IndexGap when one is missing."""
    if position is None:
        raise IndexGap("The index has no position yet: reset it first.")
    fresh = [change for change in changes if change.seq > position.seq]
    for expected, change in enumerate(fresh, start=position.seq + 1):
        if change.seq != expected:
            raise IndexGap(f"Change {expected} is missing before {change.seq}.")
    return (LogPosition(position.epoch, fresh[-1].seq, fresh[-1].token) if fresh else position), fresh


def latest(changes: Iterable[Change]) -> dict[str, Change]:
    """The last change of each vector: what it says of the vector's keys replaces all that was known of them."""
    return {change.vector_id: change for change in changes}


def comparable_keys(change: Change, spec: EmbedderSpec) -> list[TaskKey]:
    """The keys that the vector has after this change and that lie in this embedder's space.

    Keys of an unnamed embedder are the service's own. One that is not finite is left out: it has no score.
    """
    if not change.kind.findable or change.embedder not in (None, spec.fingerprint):
        return []
    return [key for key in change.keys if np.isfinite(key.embedding.row(spec)).all()]


def finite_row(query: TaskEmbedding, spec: EmbedderSpec) -> Array:
    """The query's row. Raises InvalidQuery for one that has no score with any key."""
    row = query.row(spec)
    if query.parts == 0 or row.shape != (spec.row_size,) or not np.isfinite(row).all():
        raise InvalidQuery(
            f"The query's embedding is not a finite vector of {spec.row_size} numbers.",
            f"Embed it with {spec.embedder_id}.",
        )
    return row


def best_hits(scored: Iterable[tuple[str, float]], k: int) -> list[Hit]:
    """The k best vectors of (vector id, score of one of its keys), best first, of equal ones the newest."""
    best: dict[str, float] = {}
    for vector_id, score in scored:
        best[vector_id] = max(score, best.get(vector_id, score))
    # Ids begin with the time: of two that were trained for one description, the second one is meant.
    ranked = sorted(best.items(), key=lambda item: (item[1], item[0]), reverse=True)
    return [Hit(vector_id, score) for vector_id, score in ranked[: max(k, 0)]]
