"""What a service does again and again while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from service.domain.errors import Unavailable
from service.domain.ports import Artifacts, Catalogue, TaskIndex
from service.library.clearance import begin
from service.library.reindex import follow


def looking_after(catalogue: Catalogue, artifacts: Artifacts, index: TaskIndex) -> Callable[[], None]:
    """To be called now and then: the index follows the log, and once the collector is told of a new library.

    Both have been tried when this returns.
    """
    begun = False

    def look() -> None:
        nonlocal begun
        follow(catalogue, index)
        if not begun:
            with suppress(Unavailable):  # a store is away: the next look will tell
                begin(catalogue, artifacts)
                begun = True

    look()
    return look
