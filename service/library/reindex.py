"""Bring the task index up to the catalogue: the one path by which an index ever changes."""

from __future__ import annotations

from contextlib import suppress

from service.domain.ports import Catalogue, IndexGap, TaskIndex

BATCH = 1_000


def catch_up(catalogue: Catalogue, index: TaskIndex) -> int:
    """Apply what the change log has beyond the index; returns the seq that the index now has.

    An index of another epoch, or one that is ahead of its catalogue (restored from a backup), is rebuilt from nothing.
    """
    target = catalogue.position()
    have = index.position
    if have is None or have.epoch != target.epoch or have.seq > target.seq:
        index.reset(target.epoch)
    seq = _seq(index)
    while seq < target.seq:
        # A gap means that another thread has just reset the index: go on from where it now stands.
        with suppress(IndexGap):
            index.apply(catalogue.changes(after=seq, limit=BATCH))
        seq = _seq(index)
    return seq


def _seq(index: TaskIndex) -> int:
    position = index.position
    return 0 if position is None else position.seq
