"""The port that turns uploads into vectors."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Protocol

from vlibrary.domain.card import VectorRecord
from vlibrary.domain.registration import ANONYMOUS, Upload


class Registrations(Protocol):
    """Reservations of uploads, and their publication."""

    def reserve(self, upload: Upload) -> VectorRecord | None:
        """Record the upload before its bytes are stored.

        Return None if the caller should continue, or the record that the same key and request created before (in its
        current state, so possibly deleted). Reserving the same upload again succeeds. An expired reservation of the
        same key, vector or object is replaced, whatever its request. So is an open one of the same key and vector, for
        example when an interrupted import restarts; the earlier upload can then no longer be published.
        Raises KeyReused (same key, different request), InProgress (same key and request, before the deadline),
        VectorPurged (the key's vector was purged) or VectorExists (id or object key belong to another registration).
        """
        ...

    def publish(self, upload: Upload, record: VectorRecord, *, actor: str = ANONYMOUS) -> VectorRecord:
        """Make the vector visible and return its record with version, created_at and seq filled in.

        Sequence numbers have no gaps and follow commit order. Publishing the same upload again returns the same record.
        Raises UploadExpired if the reservation is gone, its deadline has passed by the catalogue's clock, or another
        request has replaced it; nothing of this upload is visible then. Raises VectorPurged if the vector was published
        and purged before.
        """
        ...

    def release(self, upload: Upload) -> None:
        """Drop the reservation of an upload that will not be published; ignore unknown and published ones."""
        ...

    def find_referenced(
        self, object_keys: Collection[str], *, purged_within: timedelta = timedelta(0)
    ) -> frozenset[str]:
        """Return the keys that belong to a vector of any status or to a reservation whose deadline has not passed.

        purged_within: also return keys of vectors purged within this time, by the catalogue's clock.
        The other keys will never be used, provided that their uploads reserved before they stored. Concurrent
        publications do not make the result inexact.
        """
        ...

    def list_expired(self, limit: int) -> list[Upload]:
        """Return reservations past their deadline, neither published nor released, oldest deadline first."""
        ...
