"""Ports of index snapshots: a cache of a cache, so that a restart replays only the tail of the change log.

A lost snapshot costs time only. A corrupt one would give wrong results, and FAISS loads 11 of 12 files with a flipped
bit without an error, so every byte is checked against a digest before it is used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any, Protocol

from vlibrary.domain.changes import LogPosition
from vlibrary.domain.ports.task_index import TaskIndex
from vlibrary.domain.query import EmbedderSpec


@dataclass(frozen=True, eq=False)
class SnapshotDraft:
    """A snapshot to be saved: the state of an index at a log position, with the keys of one embedder.

    embedder: its fingerprint. body: JSON values. files: a writer for each file. A file name always stands for the same
    bytes, so a file that the store already has is not written again.
    """

    position: LogPosition
    embedder: str
    body: Mapping[str, Any]
    files: Mapping[str, Callable[[Path], None]]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A saved snapshot. files: memory-mapped, and readable while they are referenced even if deleted on disk."""

    position: LogPosition
    body: Mapping[str, Any]
    files: Mapping[str, mmap]


class Snapshots(Protocol):
    """Snapshot storage, which processes may share. Methods raise SnapshotsUnavailable when it cannot be used."""

    def save(self, draft: SnapshotDraft) -> None:
        """Save the draft atomically, and delete old snapshots.

        The two with the highest sequence number of this epoch and embedder are retained, and a few others.
        """
        ...

    def newest(self, epoch: str, embedder: str) -> Snapshot | None:
        """Return the intact snapshot of this epoch and embedder with the highest sequence number.

        Others are skipped and logged.
        """
        ...

    def newest_position(self, epoch: str, embedder: str) -> LogPosition | None:
        """Return the position of that snapshot without reading its files, so it may turn out to be corrupt.

        None if there is none, or if an object store that other processes write to does not respond.
        """
        ...


@dataclass(frozen=True)
class IndexChecksum:
    """Order-independent checksum of an index. keys: number of keys. digest: sum of the digests of all keys."""

    position: LogPosition | None
    keys: int
    digest: int


class PersistentIndex(TaskIndex, Protocol):
    """A task index that merges its segments in the background and can be saved."""

    @property
    def spec(self) -> EmbedderSpec:
        """The embedder whose keys the index holds."""
        ...

    def compact(self, stop: threading.Event | None = None) -> bool:
        """Merge the keys of one model that needs it; return whether there was one. Raises MergeStopped.

        Searches and `apply` are not blocked.
        """
        ...

    def save(self, snapshots: Snapshots) -> LogPosition | None:
        """Save a snapshot and return its position; None if the index has no position. Raises SnapshotsUnavailable."""
        ...

    def load(self, snapshots: Snapshots, epoch: str) -> LogPosition | None:
        """Load the newest snapshot of this epoch and return its position; None, and no change, if there is none."""
        ...

    def checksum(self) -> IndexChecksum:
        """Return the checksum of the keys that can be found now."""
        ...


class SnapshotsUnavailable(Exception):
    """The storage cannot be read or written now. Not shown to clients: the index works without snapshots."""


class SnapshotDamaged(Exception):
    """A snapshot is corrupt or has another format. Not shown to clients: the next older one is tried."""


class MergeStopped(Exception):
    """A merge was abandoned because `stop` was set."""
