"""The port that reads, amends and removes registered vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vlibrary.domain.card import TaskKey, VectorRecord
from vlibrary.domain.filters import EVERYTHING_ACTIVE, Filter
from vlibrary.domain.registration import ANONYMOUS, Amendment, Page


class Vectors(Protocol):
    """The records of registered vectors."""

    def get(self, vector_id: str, *, deleted: bool = False) -> VectorRecord:
        """Return the active record; with deleted=True also a deleted one. Raises VectorNotFound."""
        ...

    def get_many(self, vector_ids: Sequence[str]) -> list[VectorRecord]:
        """Return the active records among these ids, in the order of the ids, with cards that have no keys.

        Search results need no keys, and keys are most of a vector's data.
        """
        ...

    def page(self, which: Filter = EVERYTHING_ACTIVE, *, limit: int, cursor: str | None = None) -> Page:
        """Return records that pass the filter, newest first. Raises InvalidInput for a cursor of another origin."""
        ...

    def ids(self, which: Filter) -> frozenset[str]:
        """Return the ids of all records that pass the filter."""
        ...

    def update(
        self,
        vector_id: str,
        amendment: Amendment,
        *,
        description_key: TaskKey | None = None,
        expected_revision: int | None = None,
        actor: str = ANONYMOUS,
    ) -> tuple[VectorRecord, int]:
        """Amend the card of an active vector; return its record and the log's seq afterwards.

        description_key: the key of the new description; None if a blank description leaves the vector without one.
        The change log gets an entry only if keys changed, because an index needs nothing else.
        Raises VectorNotFound, or StaleRevision if the revision is not the expected one.
        """
        ...

    def delete(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        """Hide the vector from every reader; return the change's seq.

        Raises VectorNotFound, StaleRevision, or StillAliased while an alias points to it.
        """
        ...

    def restore(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        """Undo `delete`; return the change's seq. Raises VectorNotFound, StaleRevision, NotDeleted."""
        ...

    def purge(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        """Remove a deleted vector for good; return the change's seq. Its version and key are never reused.

        Raises VectorNotFound, StaleRevision, NotDeleted.
        """
        ...
