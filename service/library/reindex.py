"""Bring the task index up to the catalogue: the one path by which an index ever changes."""

from __future__ import annotations

from contextlib import suppress

from vlibrary.domain.changes import LogPosition
from vlibrary.domain.errors import CatalogueUnavailable, Unavailable
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.ports.task_index import IndexGap, TaskIndex
from vlibrary.domain.registration import SYSTEM

BATCH = 1_000


def catch_up(catalogue: Catalogue, index: TaskIndex) -> LogPosition:
    """Apply what the change log has beyond the index; returns the position that the index now has.

    An index of another epoch is rebuilt from nothing. One that knows another history than the log tells, since somebody
    put the database's files back, is rebuilt too, in a new epoch: so every other index and the collector hear of it.
    Raises CatalogueUnavailable, also for a log that lacks an entry.
    """
    goal: LogPosition | None = None
    while True:
        have = index.position  # before the catalogue's: that one goes on meanwhile, and never back
        if have is not None and goal is not None and have.epoch == goal.epoch and have.seq >= goal.seq:
            return have
        newest = catalogue.change_log.position()
        if have is None or have.epoch != newest.epoch:
            index.reset(newest.epoch, replacing=have)
        elif have == newest:
            return have
        elif have.seq < newest.seq and _go_on(catalogue, index, have):
            if goal is None or goal.epoch != newest.epoch:
                goal = newest  # whatever is written meanwhile is for the next one who asks
        else:
            # The log has other entries than those that the index was made of.
            _check_whole(catalogue, newest)
            catalogue.change_log.renew_epoch(replacing=have.epoch, actor=SYSTEM)


def follow(catalogue: Catalogue, index: TaskIndex) -> None:
    """`catch_up`, unless the catalogue cannot be asked now: every search catches up by itself."""
    with suppress(Unavailable):
        catch_up(catalogue, index)


def _check_whole(catalogue: Catalogue, newest: LogPosition) -> None:
    """Raises CatalogueUnavailable unless the log ends as it says: a damaged one must not be given epoch after epoch."""
    end = catalogue.change_log.read(newest.seq - 1, limit=1) if newest.seq else []
    if newest.token != (end[0].token if end else ""):
        raise CatalogueUnavailable(
            f"The change log does not lead to its newest place, {newest.seq}.", "Run `vlibrary doctor --deep`."
        )


def _go_on(catalogue: Catalogue, index: TaskIndex, have: LogPosition) -> bool:
    """Apply what comes next, if the log still has the entry that the index has applied last; whether it has."""
    entries = catalogue.change_log.read(after=max(0, have.seq - 1), limit=BATCH)
    if have.seq and not (entries and (entries[0].seq, entries[0].token) == (have.seq, have.token)):
        return False
    # A gap means that another thread has just reset the index: go on from where it now stands.
    with suppress(IndexGap):
        index.apply(entries)
    if index.position == have:
        raise CatalogueUnavailable(
            f"The change log lacks an entry soon after {have.seq}.", "Run `vlibrary doctor`; restore a backup."
        )
    return True
