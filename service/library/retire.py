"""Take a vector out of the library."""

from __future__ import annotations

from service.domain.ports import ANONYMOUS, Catalogue, TaskIndex
from service.library.reindex import follow


def retire(
    vector_id: str,
    *,
    catalogue: Catalogue,
    index: TaskIndex,
    expected_revision: int | None = None,
    actor: str = ANONYMOUS,
) -> int:
    """Hide the vector at once from every reader; returns the seq of the change.

    expected_revision: None for any. Raises VectorNotFound, StaleRevision, StillAliased.

    Its bytes stay in the store for now: a running answer may still need them, and a mistake can be undone.
    """
    seq = catalogue.delete(vector_id, expected_revision=expected_revision, actor=actor)
    follow(catalogue, index)
    return seq
