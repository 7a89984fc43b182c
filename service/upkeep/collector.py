"""Remove what nobody can need any more: stuck reservations, vectors deleted long ago, objects without an owner.

Why collectors, stalled ones too, are safe beside each other and beside publishers: every upload has an object key of
its own, which is never used again. So an object that has neither a vector nor an open reservation can never get one,
and it does not matter how late somebody removes it who has seen this once. The grace is for what a catalogue cannot
know: a restoration that puts objects back before their rows, and one that brings back a row which has been purged. So
a state of the database that is not older than the grace can be put back, and finds all its objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

from vlibrary.domain.card import Status
from vlibrary.domain.errors import Conflict, InvalidInput, VectorNotFound
from vlibrary.domain.filters import Filter
from vlibrary.domain.objects import is_ours
from vlibrary.domain.ports import Artifacts, Catalogue, StoredObject
from vlibrary.library.paging import batches, pages
from vlibrary.library.publish import DEADLINE
from vlibrary.upkeep.collector_guard import check_cleared, is_mark, note_progress

BATCH = 100
COUNTED = 10_000  # stuck reservations that a dry run counts at most
GRACE = timedelta(hours=24)
LONGEST = timedelta(days=36_525)


@dataclass(frozen=True)
class Rules:
    """What to remove. Raises InvalidInput.

    grace: objects younger than this stay, and those of vectors purged no longer ago. retention: vectors deleted longer
    ago than this are purged; None: none are.
    dry_run: only count.
    """

    grace: timedelta = GRACE
    retention: timedelta | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.grace < DEADLINE:
            raise InvalidInput(
                f"The grace of {self.grace} is shorter than the {DEADLINE} that a registration may take.",
                f"Leave objects alone for at least {DEADLINE}; the default is {GRACE}.",
            )
        if self.retention is not None and self.retention < timedelta(0):
            raise InvalidInput(f"The retention of {self.retention} is negative.", "Give zero or more.")
        if max(self.grace, self.retention or self.grace) > LONGEST:
            raise InvalidInput(
                "The grace or the retention is longer than a century.", f"Give at most {LONGEST.days:,} days."
            )


@dataclass(frozen=True)
class Collection:
    """What has been done so far; of a dry run, what would have been.

    released: reservations. purged: vectors. seen, young, removed: objects of the library's; freed: bytes of the removed
    ones. foreign: objects that are no library's, which are left alone.
    cursor: a later run may go on after this key.
    """

    released: int = 0
    purged: int = 0
    seen: int = 0
    young: int = 0
    removed: int = 0
    freed: int = 0
    foreign: int = 0
    cursor: str | None = None


def collect(
    catalogue: Catalogue,
    artifacts: Artifacts,
    rules: Rules,
    *,
    actor: str,
    after: str | None = None,
    pace: Callable[[], None] = lambda: None,
) -> Iterator[Collection]:
    """Yields the state of the work, the last one being the result; leaving off at any moment is safe.

    pace: called before every removal; it may wait. Raises CollectorPaused, Unavailable.
    """
    position = check_cleared(catalogue, artifacts)
    if not rules.dry_run:
        note_progress(artifacts, position)
    done = Collection(released=_release(catalogue, rules, actor), purged=_purge(catalogue, rules, actor), cursor=after)
    yield done
    newest = artifacts.now() - rules.grace
    for batch in batches(artifacts.list(after), BATCH):
        objects = [found for found in batch if is_ours(found.key)]
        old = [found for found in objects if found.modified < newest]
        doomed = _unreferenced(catalogue, old, rules.grace)
        if doomed and not rules.dry_run:
            _remove(catalogue, artifacts, doomed, actor, pace)
        done = replace(
            done,
            seen=done.seen + len(objects),
            young=done.young + len(objects) - len(old),
            removed=done.removed + len(doomed),
            freed=done.freed + sum(found.size for found in doomed),
            foreign=done.foreign + sum(not is_ours(found.key) and not is_mark(found.key) for found in batch),
            cursor=batch[-1].key,
        )
        yield done


def _unreferenced(catalogue: Catalogue, objects: Sequence[StoredObject], grace: timedelta) -> list[StoredObject]:
    referenced = catalogue.references([found.key for found in objects], purged_within=grace)
    return [found for found in objects if found.key not in referenced]


def _remove(
    catalogue: Catalogue, artifacts: Artifacts, doomed: Sequence[StoredObject], actor: str, pace: Callable[[], None]
) -> None:
    check_cleared(catalogue, artifacts)  # again: a restoration may have begun
    # First the log, so that it tells of every removal, of one that is killed half-way too.
    keys = [found.key for found in doomed]
    catalogue.note("collector.remove", keys[0], {"objects": keys}, actor=actor)
    for key in keys:
        pace()
        artifacts.delete(key)


def _release(catalogue: Catalogue, rules: Rules, actor: str) -> int:
    """Nobody can publish under a reservation whose deadline is over, so the only loss is the memory of it."""
    if rules.dry_run:
        return len(catalogue.stuck_uploads(COUNTED))
    count = 0
    while stuck := catalogue.stuck_uploads(BATCH):
        count += len(stuck)
        for upload in stuck:
            catalogue.release(upload)
        ids = [upload.vector_id for upload in stuck]
        catalogue.note("collector.release", ids[0], {"uploads": ids}, actor=actor)
    return count


def _purge(catalogue: Catalogue, rules: Rules, actor: str) -> int:
    if rules.retention is None:
        return 0
    before = catalogue.now() - rules.retention  # by the clock that dated the deletions
    count = 0
    for page in pages(catalogue, Filter(status=Status.DELETED)):
        for record in page.records:
            if record.deleted_at is None or record.deleted_at > before:
                continue
            # Conflict: it was restored, or changed, since the page was read.
            with suppress(VectorNotFound, Conflict):
                if not rules.dry_run:
                    catalogue.purge(record.id, expected_revision=record.revision, actor=actor)
                count += 1
    return count
