"""Heartbeat: tells the collector guard which library uses the artifact store and how far its change log has come."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from vlibrary.domain.changes import LogPosition
from vlibrary.domain.errors import Unavailable
from vlibrary.library.library import Library
from vlibrary.upkeep.collector_guard import has_marker, update_markers

# The collector guard cannot detect the loss of log entries newer than the marker, so this bounds how many there are.
# It also bounds how long another library in the store can collect before it detects this one.
INTERVAL_S = 60.0
RETRY_S = 5.0

log = structlog.get_logger(__name__)


class Heartbeat:
    """Updates the collector marker of a library once per interval. now: a clock, in seconds."""

    def __init__(self, library: Library, *, now: Callable[[], float] = time.monotonic) -> None:
        self._library = library
        self._now = now
        self._recorded: LogPosition | None = None
        self._due = now()
        self._failed = False

    def beat_if_due(self) -> None:
        """Update the marker if the interval is over."""
        if self._now() >= self._due:
            self.beat()

    def beat(self) -> None:
        """Update the marker now; if the store does not respond, log it and retry after RETRY_S."""
        position = self._library.index.position
        if position is None:  # the catalogue has not responded yet
            return
        artifacts = self._library.artifacts
        failed = False
        try:
            # Also without changes: another library that claims the store must detect this one.
            if position != self._recorded or not has_marker(artifacts, position.epoch):
                update_markers(self._library.catalogue, artifacts)
            self._recorded = position
        except Unavailable as error:
            failed = True
            if not self._failed:
                log.warning("heartbeat.store_unavailable", detail=error.detail, cure=error.cure)
        self._failed = failed
        self._due = self._now() + (RETRY_S if failed else INTERVAL_S)
