"""Rules that all task indexes share: which changes are new, which keys are comparable, how hits are ranked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vlibrary.domain.card import TaskKey
from vlibrary.domain.changes import Change, LogPosition
from vlibrary.domain.errors import InvalidQuery
from vlibrary.domain.ports.task_index import Hit, IndexGap
from vlibrary.domain.query import EmbedderSpec, TaskEmbedding
from vlibrary.domain.vector import Array


def new_changes(position: LogPosition | None, changes: Sequence[Change]) -> tuple[LogPosition, list[Change]]:
    """Return the position after these changes, and the changes beyond `position`. Raises IndexGap."""
    if position is None:
        raise IndexGap("The index has no position yet: reset it first.")
    new = [change for change in changes if change.seq > position.seq]
    for expected, change in enumerate(new, start=position.seq + 1):
        if change.seq != expected:
            raise IndexGap(f"Change {expected} is missing before {change.seq}.")
    return (LogPosition(position.epoch, new[-1].seq, new[-1].token) if new else position), new


def comparable_keys(change: Change, spec: EmbedderSpec) -> list[TaskKey]:
    """Return the keys by which the vector can be found after this change.

    These are keys of the spec's embedder or of an unnamed one, which is the service's own. Non-finite keys are left
    out, since they have no score.
    """
    if not change.kind.findable or change.embedder not in (None, spec.fingerprint):
        return []
    return [key for key in change.keys if np.isfinite(key.embedding.row(spec)).all()]


def finite_row(query: TaskEmbedding, spec: EmbedderSpec) -> Array:
    """Return the query's row, shape [row_size]. Raises InvalidQuery if it has no finite score with any key."""
    row = query.row(spec)
    if query.parts == 0 or row.shape != (spec.row_size,) or not np.isfinite(row).all():
        raise InvalidQuery(
            f"The query's embedding is not a finite vector of {spec.row_size} numbers.",
            f"Embed it with {spec.embedder_id}.",
        )
    return row


def best_hits(scored: Iterable[tuple[str, int, float]], k: int) -> list[Hit]:
    """Return the k best vectors, best first; of equal scores the last registered vector first.

    scored: vector id, sequence number of its registration, and the score of one of its keys. Ids do not tell which is
    newer, since an imported vector keeps its id.
    """
    best: dict[str, tuple[float, int]] = {}
    for vector_id, registered, score in scored:
        best[vector_id] = max((score, registered), best.get(vector_id, (score, registered)))
    ranked = sorted(best.items(), key=lambda item: item[1], reverse=True)
    return [Hit(vector_id, score) for vector_id, (score, _) in ranked[: max(k, 0)]]
