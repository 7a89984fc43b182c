"""What a service does again and again while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from service.domain.errors import Unavailable
from service.domain.ports import Artifacts, Catalogue, Position, TaskIndex
from service.library.clearance import begin
from service.library.reindex import follow

# So old the collector's mark may get while the log goes on. What the mark does not name, the collector does not miss
# when an earlier state of the database is put back.
MARK_S = 60.0


class LookAfter:
    """The index follows the log, and the collector is told of a new library and of how far its log has come.

    Both have been tried once it is made. What stores that are away refuse is tried again. now: a clock, in seconds.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        artifacts: Artifacts,
        index: TaskIndex,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalogue = catalogue
        self._artifacts = artifacts
        self._index = index
        self._now = now
        self._marked: Position | None = None
        self._tried = now()
        self.look()

    def look(self) -> None:
        """To be called now and then."""
        follow(self._catalogue, self._index)
        # A new library's mark must be there before its first vector.
        if self._marked is None or self._now() - self._tried >= MARK_S:
            self._mark()

    def end(self) -> None:
        """To be called last: the mark names what was registered until then."""
        follow(self._catalogue, self._index)
        self._mark()

    def _mark(self) -> None:
        position = self._index.position
        if position == self._marked:
            return
        self._tried = self._now()
        with suppress(Unavailable):
            begin(self._catalogue, self._artifacts)
            self._marked = position
