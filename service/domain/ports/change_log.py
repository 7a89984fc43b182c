"""The port of the change log, which every task index replays."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from vlibrary.domain.changes import Change, LogPosition
from vlibrary.domain.registration import ANONYMOUS


class ChangeLog(Protocol):
    """The gapless sequence of changes to findable vectors."""

    def position(self) -> LogPosition:
        """Return the position of the newest entry."""
        ...

    def read(self, after: int, limit: int) -> list[Change]:
        """Return at most limit entries with seq > after, in order, without gaps."""
        ...

    def renew_epoch(self, *, replacing: str | None = None, actor: str = ANONYMOUS) -> LogPosition:
        """Give the catalogue a new epoch after a restore, so that every index is rebuilt; return the position.

        replacing: do nothing unless this is the current epoch.
        """
        ...

    def now(self) -> datetime:
        """Return the catalogue's clock, which dates changes and judges deadlines; timezone-aware UTC."""
        ...
