"""In-memory artifact store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from vlibrary.adapters.artifacts.checks import check_digest, check_key, missing_object
from vlibrary.adapters.clock import SystemClock
from vlibrary.domain.ports.artifacts import StoredObject
from vlibrary.domain.ports.clock import Clock


class MemoryArtifacts:
    """ports.Artifacts in a dictionary."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._objects: dict[str, bytes] = {}
        self._modified: dict[str, datetime] = {}

    def put(self, key: str, data: bytes, sha256: str) -> None:
        check_key(key)
        check_digest(key, data, sha256)
        self._modified.setdefault(key, self._clock.now())  # first: what is listed has a time
        check_digest(key, self._objects.setdefault(key, data), sha256)  # setdefault: the first of two writers stays

    def get(self, key: str, sha256: str) -> bytes:
        check_key(key)
        if (data := self._objects.get(key)) is None:
            raise missing_object(key)
        check_digest(key, data, sha256)
        return data

    def delete(self, key: str) -> None:
        check_key(key)
        self._objects.pop(key, None)
        self._modified.pop(key, None)

    def stat(self, key: str) -> StoredObject | None:
        check_key(key)
        data, modified = self._objects.get(key), self._modified.get(key)
        return None if data is None or modified is None else StoredObject(key, len(data), modified)

    def list(self, after: str | None = None) -> Iterator[StoredObject]:
        for key in sorted(key for key in self._objects if after is None or key > after):
            if (found := self.stat(key)) is not None:
                yield found

    def now(self) -> datetime:
        return self._clock.now()

    def check(self) -> None:
        """A dictionary is always there."""
