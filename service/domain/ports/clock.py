"""The port of the clock."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The current time; a port so that tests can control deadlines."""

    def now(self) -> datetime:
        """Return the current time, timezone-aware UTC."""
        ...
