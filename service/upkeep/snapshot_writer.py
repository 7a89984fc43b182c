"""Decides when a snapshot of the task index is due, and saves it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from vlibrary.domain.changes import LogPosition
from vlibrary.domain.ports.snapshots import PersistentIndex, Snapshots, SnapshotsUnavailable

MIN_JITTER = 0.8

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class SnapshotSchedule:
    """A snapshot is due after this many changes, or when a change has been unsaved for this many seconds.

    The limit in seconds can double if another process that shares the snapshots exits.
    """

    changes: int = 10_000
    seconds: float = 300.0

    def with_jitter(self) -> SnapshotSchedule:
        """Return a schedule that is a little earlier, at random.

        Of several processes that share the snapshots, one is then first, and the others reuse its snapshot.
        """
        share = random.uniform(MIN_JITTER, 1)
        return SnapshotSchedule(max(1, round(share * self.changes)), share * self.seconds)


class SnapshotWriter:
    """Saves snapshots of one index; other processes may save snapshots of the same catalogue to the same storage.

    loaded: position of the snapshot that the index was loaded from, if any. now: a clock, in seconds.
    """

    def __init__(
        self,
        index: PersistentIndex,
        snapshots: Snapshots,
        schedule: SnapshotSchedule | None = None,
        *,
        loaded: LogPosition | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._snapshots = snapshots
        self._schedule = schedule or SnapshotSchedule()
        self._now = now
        self._saved = loaded
        self._unsaved_since = now()
        # A snapshot that exists now but was not loaded could not be loaded, so it does not count as saved.
        self._at_start: LogPosition | None = None
        if (position := index.position) is not None:
            with suppress(SnapshotsUnavailable):
                self._at_start = snapshots.newest_position(position.epoch, index.spec.fingerprint)

    def save_if_due(self, *, merged: bool) -> None:
        """Save a snapshot if the schedule requires it, or segments were merged since the last call."""
        changes = self._count_changes()
        if changes == 0:
            self._unsaved_since = self._now()
        overdue = self._now() - self._unsaved_since > self._schedule.seconds
        if merged or (changes > 0 and (overdue or changes >= self._schedule.changes)):
            self._save(merged=merged)

    def save_if_changed(self) -> None:
        """Save a snapshot unless the newest one is up to date, or close enough that none would be due."""
        if self._count_changes() > 0:
            self._save(merged=False)

    def _count_changes(self) -> int:
        """Return the number of changes since the last snapshot."""
        now, saved = self._index.position, self._saved
        if now is None:
            return 0
        return now.seq if saved is None or saved.epoch != now.epoch else now.seq - saved.seq

    def _save(self, *, merged: bool) -> None:
        self._unsaved_since = self._now()
        try:
            if merged or not self._is_saved_elsewhere():
                self._saved = self._index.save(self._snapshots)
                log.info("index.snapshot_saved", position=self._saved)
        except SnapshotsUnavailable as reason:
            log.warning("index.snapshot_failed", reason=str(reason))

    def _is_saved_elsewhere(self) -> bool:
        """Return whether another process has saved this state, or one so close that no snapshot would be due."""
        now, saved = self._index.position, self._saved
        if now is None or saved is None:
            return False
        found = self._snapshots.newest_position(now.epoch, self._index.spec.fingerprint)
        if found is None or any(
            known is not None and found.epoch == known.epoch and found.seq <= known.seq
            for known in (saved, self._at_start)
        ):
            return False
        self._saved = found
        return self._count_changes() < self._schedule.changes
