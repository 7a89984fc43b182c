"""What a service does again and again while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from vlibrary.domain.errors import Unavailable
from vlibrary.domain.ports import Position
from vlibrary.library.library import Library
from vlibrary.library.reindex import follow
from vlibrary.upkeep.collector_guard import begin, has_mark

# So old the collector's mark may get while the log goes on: what it does not name, the collector does not miss when an
# earlier state of the database is put back. And so soon another library in the store hears that this one uses it, too.
MARK_S = 60.0
RETRY_S = 5.0


class LookAfter:
    """The index follows the log, and the collector is told of a new library and of how far its log has come.

    Both have been tried once it is made. What stores that are away refuse is tried again. now: a clock, in seconds.
    trouble: what the store said if the collector could not be told the last time.
    """

    def __init__(self, library: Library, *, now: Callable[[], float] = time.monotonic) -> None:
        self._catalogue = library.catalogue
        self._artifacts = library.artifacts
        self._index = library.index
        self._now = now
        self._marked: Position | None = None
        self._due = now()
        self.trouble: Unavailable | None = None
        self.look()

    def look(self) -> None:
        """To be called now and then."""
        follow(self._catalogue, self._index)
        if self._now() >= self._due:
            self._mark()

    def end(self) -> None:
        """To be called last: the mark names what was registered until then."""
        follow(self._catalogue, self._index)
        self._mark()

    def _mark(self) -> None:
        position = self._index.position
        if position is None:  # the catalogue is away
            return
        try:
            # A library at rest looks, too: whoever took the store over must not remove what it has.
            if position != self._marked or not has_mark(self._artifacts, position.epoch):
                begin(self._catalogue, self._artifacts)
            self._marked, self.trouble = position, None
        except Unavailable as error:
            self.trouble = error
        self._due = self._now() + (RETRY_S if self.trouble else MARK_S)
