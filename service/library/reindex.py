"""Bring a task index up to date with the change log: the only way in which an index changes."""

from __future__ import annotations

from contextlib import suppress

from vlibrary.domain.changes import LogPosition
from vlibrary.domain.errors import CatalogueUnavailable, Unavailable
from vlibrary.domain.ports.change_log import ChangeLog
from vlibrary.domain.ports.task_index import IndexGap, TaskIndex
from vlibrary.domain.registration import SYSTEM

BATCH = 1_000


def catch_up(change_log: ChangeLog, index: TaskIndex) -> LogPosition:
    """Apply the entries that the index lacks; return the index's position.

    An index of another epoch is rebuilt. If the log and the index disagree about an entry, the database files were
    replaced by an earlier copy: the catalogue gets a new epoch, so that every index and the collector notice.
    Raises CatalogueUnavailable, also for a log with a missing entry.
    """
    goal: LogPosition | None = None
    while True:
        have = index.position  # read before the catalogue's position, which only moves forward
        if have is not None and goal is not None and have.epoch == goal.epoch and have.seq >= goal.seq:
            return have
        newest = change_log.position()
        if have is None or have.epoch != newest.epoch:
            index.reset(newest.epoch, replacing=have)
        elif have == newest:
            return have
        elif have.seq < newest.seq and _apply_next(change_log, index, have):
            if goal is None or goal.epoch != newest.epoch:
                goal = newest  # later entries are for the next call
        else:
            _check_complete(change_log, newest)
            change_log.renew_epoch(replacing=have.epoch, actor=SYSTEM)


def try_catch_up(change_log: ChangeLog, index: TaskIndex) -> None:
    """Call `catch_up`, ignoring an unavailable catalogue: every search catches up by itself."""
    with suppress(Unavailable):
        catch_up(change_log, index)


def _check_complete(change_log: ChangeLog, newest: LogPosition) -> None:
    """Raise CatalogueUnavailable unless the newest entry exists: a damaged log must not get one epoch after another."""
    end = change_log.read(newest.seq - 1, limit=1) if newest.seq else []
    if newest.token != (end[0].token if end else ""):
        raise CatalogueUnavailable(
            f"The change log lacks its newest entry, {newest.seq}.", "Run `vlibrary doctor --deep`."
        )


def _apply_next(change_log: ChangeLog, index: TaskIndex, have: LogPosition) -> bool:
    """Apply the next batch; return whether the log still has the entry that the index applied last."""
    entries = change_log.read(after=max(0, have.seq - 1), limit=BATCH)
    if have.seq and not (entries and (entries[0].seq, entries[0].token) == (have.seq, have.token)):
        return False
    # A gap means that another thread has just reset the index: continue from its new position.
    with suppress(IndexGap):
        index.apply(entries)
    if index.position == have:
        raise CatalogueUnavailable(
            f"The change log has a gap after entry {have.seq}.",
            "Run `vlibrary doctor --deep`, and restore a backup if it confirms the gap.",
        )
    return True
