"""Background tasks of a running service."""

from __future__ import annotations

import threading

import structlog

from vlibrary.domain.ports.snapshots import MergeStopped, PersistentIndex
from vlibrary.library.library import Library
from vlibrary.library.reindex import try_catch_up
from vlibrary.upkeep.heartbeat import Heartbeat
from vlibrary.upkeep.snapshot_writer import SnapshotWriter

INTERVAL_S = 0.5
FAILURE_INTERVAL_S = 60.0

log = structlog.get_logger(__name__)


class BackgroundTasks:
    """Runs the periodic tasks in a thread: replay the change log, merge segments, save snapshots, send the heartbeat.

    index: the library's index.
    """

    def __init__(self, library: Library, index: PersistentIndex, writer: SnapshotWriter, heartbeat: Heartbeat) -> None:
        self._catalogue = library.catalogue
        self._index = index
        self._writer = writer
        self._heartbeat = heartbeat
        self._stop = threading.Event()
        # A daemon: training inverted lists cannot be interrupted, and must not delay the end of the process.
        self._thread = threading.Thread(target=self._run, name="background-tasks", daemon=True)

    def tick(self) -> None:
        """Run every task that is due. Raises MergeStopped if `close` was called during a merge."""
        try_catch_up(self._catalogue.change_log, self._index)  # so that the next search has little left to replay
        self._heartbeat.beat_if_due()
        merged = False
        try:
            while self._index.compact(self._stop):
                merged = True
                log.info("index.merged", position=self._index.position)
        finally:
            self._writer.save_if_due(merged=merged)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, wait_s: float = 10.0) -> None:
        """Stop the thread, save a last snapshot if there are unsaved changes, and send a last heartbeat.

        If the thread is still busy after wait_s seconds, for example with a store that does not respond, skip both: the
        next start replays what was not saved.
        """
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(wait_s)
        if self._thread.is_alive():
            log.warning("background.close_timed_out")
            return
        self._writer.save_if_changed()
        try_catch_up(self._catalogue.change_log, self._index)
        self._heartbeat.beat()

    def _run(self) -> None:
        interval = INTERVAL_S
        while not self._stop.wait(interval):
            interval = INTERVAL_S
            try:
                self.tick()
            except MergeStopped:
                return
            except Exception:  # searches work without these tasks, so the thread must survive any failure
                log.exception("background.tick_failed")
                interval = FAILURE_INTERVAL_S
