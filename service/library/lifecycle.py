"""What can follow on a deletion (service.library.retire): the way back, and the end."""

from __future__ import annotations

from service.domain.ports import ANONYMOUS, Catalogue, TaskIndex
from service.library.reindex import follow


def restore(
    vector_id: str,
    *,
    catalogue: Catalogue,
    index: TaskIndex,
    expected_revision: int | None = None,
    actor: str = ANONYMOUS,
) -> int:
    """Undo a deletion; returns the seq of the change, up to which queries find the vector again.

    expected_revision: None for any. Raises VectorNotFound, StaleRevision, NotDeleted.
    """
    seq = catalogue.restore(vector_id, expected_revision=expected_revision, actor=actor)
    follow(catalogue, index)
    return seq


def purge(
    vector_id: str,
    *,
    catalogue: Catalogue,
    index: TaskIndex,
    expected_revision: int | None = None,
    actor: str = ANONYMOUS,
) -> int:
    """Forget a deleted vector for good; returns the seq of the change. A collector removes its bytes later.

    expected_revision: None for any. Raises VectorNotFound, StaleRevision, NotDeleted.
    """
    seq = catalogue.purge(vector_id, expected_revision=expected_revision, actor=actor)
    follow(catalogue, index)
    return seq
