"""The expected result of a search, by comparing all keys."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.registrations import EMBEDDER
from vlibrary.domain.changes import Change
from vlibrary.domain.ports.task_index import Hit
from vlibrary.domain.query import TaskEmbedding, score


def exact(
    log: Sequence[Change], query: TaskEmbedding, model: str, k: int, among: frozenset[str] | None = None
) -> list[Hit]:
    """Return the expected result of a search after these changes."""
    last = {change.vector_id: change for change in log}
    scores = {
        (change.vector_id, change.registered): max(score(query, key.embedding, EMBEDDER) for key in change.keys)
        for change in last.values()
        if change.kind.findable
        and change.keys
        and change.model == model
        and change.embedder in (None, EMBEDDER.fingerprint)
        and (among is None or change.vector_id in among)
    }
    ranked = sorted(scores.items(), key=lambda item: (item[1], item[0][1]), reverse=True)
    return [Hit(vector_id, found) for (vector_id, _), found in ranked[:k]]
