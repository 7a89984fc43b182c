"""Snapshots of the task index: a cache of a cache, so that a start replays only the tail of the change log.

Losing one costs time and nothing else. Serving from a wrong one would be worse than having none, and FAISS reads 11 of
12 files with a flipped bit without a word: so every byte is checked before anybody looks at it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any, Protocol

from vlibrary.domain.ports import Position


@dataclass(frozen=True, eq=False)
class Draft:
    """What shall be kept: a state of the index at a position of the change log, for the keys of one embedder.

    body: JSON values. pieces: by name, what writes them to a file. A name stands for the same bytes for ever, so that
    a piece that the store already has need not be written again.
    """

    position: Position
    embedder: str
    body: Mapping[str, Any]
    pieces: Mapping[str, Callable[[Path], None]]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What was kept, byte for byte. pieces: files mapped into memory, readable as long as they are referenced."""

    position: Position
    body: Mapping[str, Any]
    pieces: Mapping[str, mmap]


class Snapshots(Protocol):
    """A place for snapshots; processes may share it."""

    def save(self, draft: Draft) -> None:
        """Keep the draft whole or not at all, a crash at any moment included.

        Beside it stay the two furthest of its epoch and embedder, and a few of the others. Raises
        SnapshotsUnavailable.
        """
        ...

    def newest(self, epoch: str, embedder: str) -> Snapshot | None:
        """The furthest one that is whole, of this epoch and this embedder; others are passed over, and logged.

        Raises SnapshotsUnavailable.
        """
        ...

    def reached(self, epoch: str, embedder: str) -> Position | None:
        """How far the furthest one of this epoch and this embedder goes, by its own word: its pieces are not read.

        None when there is none, or when one cannot tell what other processes have kept. Raises SnapshotsUnavailable.
        """
        ...


class SnapshotsUnavailable(Exception):
    """The place cannot be written to or read now. No request sees this: the index does without."""


class SnapshotDamaged(Exception):
    """A snapshot is not what was written. No request sees this: the next older one is tried."""
