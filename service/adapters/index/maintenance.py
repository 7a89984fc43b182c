"""Looks after the task index in a thread of its own: follows the log, merges what wants merging, keeps snapshots."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.domain.ports import Position
from vlibrary.domain.ports.snapshots import MergeStopped, Snapshots, SnapshotsUnavailable

EARLIEST = 0.8

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Rhythm:
    """How often it looks at the index. A snapshot is due after a merge, after so many changes, or after a while.

    snapshot_s: how old a change may get before it is kept; twice that if another process with the same place ends, and
    left what came last to be kept.
    """

    look_s: float = 0.5
    after_failure_s: float = 60.0
    snapshot_changes: int = 10_000
    snapshot_s: float = 300.0

    def hastened(self) -> Rhythm:
        """One whose snapshots are due a little earlier, by chance.

        So of several processes with one place one is first, and the others see what it has kept.
        """
        share = random.uniform(EARLIEST, 1)
        return replace(
            self,
            snapshot_changes=max(1, round(share * self.snapshot_changes)),
            snapshot_s=share * self.snapshot_s,
        )


class Upkeep:
    """One thread from `start` to `close`, which keeps a last snapshot. What fails is logged, and tried again later.

    follow: brings the index up to the catalogue, so that not all of that is left to the next search. end: called once,
    when it closes.
    snapshots: None to keep none. kept: the position of the snapshot that the index was loaded from.
    """

    def __init__(
        self,
        index: FaissIndex,
        snapshots: Snapshots | None,
        *,
        follow: Callable[[], object] = lambda: None,
        end: Callable[[], object] = lambda: None,
        kept: Position | None = None,
        rhythm: Rhythm | None = None,
    ) -> None:
        self._follow = follow
        self._end = end
        self._index = index
        self._snapshots = snapshots
        self._kept = kept
        self._at_start = self._reached()
        self._merged = False
        self._rhythm = (rhythm or Rhythm()).hastened()
        self._since = time.monotonic()
        self._stop = threading.Event()
        # A daemon: training inverted lists cannot be interrupted, and a process that shall end must not wait for it.
        self._thread = threading.Thread(target=self._run, name="index-upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, wait_s: float = 10.0) -> None:
        """End the thread, after a last snapshot if anything changed since the one before.

        When the thread is busy, or waits for a store that does not answer, for longer than wait_s seconds, the rest is
        left undone: the next start replays what was not kept.
        """
        self._stop.set()
        self._thread.join(wait_s)
        if self._thread.is_alive():
            log.warning("index.upkeep_left_busy")
            return
        if self._merged or self._changes() > 0:
            self._snapshot()
        self._end()

    def _run(self) -> None:
        pause = self._rhythm.look_s
        while not self._stop.wait(pause):
            pause = self._rhythm.look_s
            try:
                self._look()
            except MergeStopped:
                return
            except Exception:  # the thread's border: searches go on without what failed
                log.exception("index.upkeep_failed")
                pause = self._rhythm.after_failure_s

    def _look(self) -> None:
        self._follow()
        while self._index.compact(self._stop):
            log.info("index.merged", position=self._index.position)
            self._merged = True
        if self._merged or self._due():
            self._snapshot()

    def _changes(self) -> int:
        """How many there were since the last snapshot."""
        now, kept = self._index.position, self._kept
        if now is None:
            return 0
        return now.seq if kept is None or kept.epoch != now.epoch else now.seq - kept.seq

    def _due(self) -> bool:
        changes = self._changes()
        if changes == 0:
            self._since = time.monotonic()
        overdue = time.monotonic() - self._since > self._rhythm.snapshot_s
        return changes > 0 and (overdue or changes >= self._rhythm.snapshot_changes)

    def _snapshot(self) -> None:
        merged, self._merged = self._merged, False
        self._since = time.monotonic()
        if self._snapshots is None:
            return
        try:
            if not merged and self._kept_by_another(self._snapshots):
                return
            self._kept = self._index.save(self._snapshots)
            log.info("index.snapshot_kept", position=self._kept)
        except SnapshotsUnavailable as reason:
            log.warning("index.snapshot_failed", reason=str(reason))

    def _kept_by_another(self, snapshots: Snapshots) -> bool:
        """Whether another process has kept this state, or one so near that no snapshot would be due.

        What lay there when this process began is not counted: what it did not load could not be loaded.
        """
        now, kept = self._index.position, self._kept
        if now is None or kept is None:
            return False
        found = snapshots.newest_position(now.epoch, self._index.spec.fingerprint)
        if found is None or any(_is_within(found, known) for known in (kept, self._at_start)):
            return False
        self._kept = found
        return self._changes() < self._rhythm.snapshot_changes

    def _reached(self) -> Position | None:
        """How far the snapshots go that are kept now."""
        now = self._index.position
        if self._snapshots is None or now is None:
            return None
        with suppress(SnapshotsUnavailable):
            return self._snapshots.newest_position(now.epoch, self._index.spec.fingerprint)
        return None


def _is_within(one: Position, other: Position | None) -> bool:
    return other is not None and one.epoch == other.epoch and one.seq <= other.seq
