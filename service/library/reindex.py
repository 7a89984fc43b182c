"""Bring the task index up to the catalogue: the one path by which an index ever changes."""

from __future__ import annotations

from contextlib import suppress

from service.domain.errors import CatalogueUnavailable
from service.domain.ports import SYSTEM, Catalogue, Change, IndexGap, Position, TaskIndex

BATCH = 1_000


def catch_up(catalogue: Catalogue, index: TaskIndex) -> int:
    """Apply what the change log has beyond the index; returns the seq that the index now has.

    An index of another epoch is rebuilt from nothing. One that knows another history than the log tells, since somebody
    put the database's files back, is rebuilt too, in a new epoch: so every other index and the collector hear of it.
    Raises CatalogueUnavailable, also for a log that lacks an entry.
    """
    have = index.position  # before the catalogue's: that one goes on meanwhile, and never back
    target = catalogue.position()
    if have is None or have.epoch != target.epoch:
        index.reset(target.epoch)
    elif have.seq > target.seq or (have.seq == target.seq and have.mark != target.mark):
        target = _start_anew(catalogue, index, have)
    have = _position(index)
    while have.seq < target.seq:
        entries = catalogue.changes(after=max(0, have.seq - 1), limit=BATCH)
        before = have
        if _go_on(before, entries):
            # A gap means that another thread has just reset the index: go on from where it now stands.
            with suppress(IndexGap):
                index.apply(entries)
        else:
            target = _start_anew(catalogue, index, before)
        have = _position(index)
        if have == before:
            raise CatalogueUnavailable(
                f"The change log lacks an entry between {have.seq + 1} and {target.seq}.",
                "Run `vlibrary doctor`; restore a backup.",
            )
    return have.seq


def _start_anew(catalogue: Catalogue, index: TaskIndex, have: Position) -> Position:
    """Empty the index, under an epoch that is not the one it had; returns the catalogue's position."""
    position = catalogue.renew_epoch(replacing=have.epoch, actor=SYSTEM)
    index.reset(position.epoch)
    return position


def _go_on(have: Position, entries: list[Change]) -> bool:
    """Whether the entries begin with the one that the index has applied last."""
    return have.seq == 0 or (bool(entries) and (entries[0].seq, entries[0].mark) == (have.seq, have.mark))


def _position(index: TaskIndex) -> Position:
    return index.position or Position("", 0)
