"""Garbage collection: expired reservations, vectors deleted long ago, and unreferenced objects.

Several collectors, even stalled ones, are safe together with each other and with registrations: every upload has its
own object key, which is never reused. An object without a vector or an open reservation can therefore never get one, no
matter how late a collector that has seen this deletes it. The grace period is for what the catalogue cannot know: a
restoration that copies objects before their rows exist, and one that brings back the row of a purged vector. A state of
the database that is no older than the grace period can be restored, and all its objects still exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta

from vlibrary.domain.card import Status
from vlibrary.domain.errors import Conflict, InvalidInput, VectorNotFound
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.artifacts import Artifacts, StoredObject, is_library_key
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.library.paging import iter_batches, iter_pages
from vlibrary.library.publish import DEADLINE
from vlibrary.upkeep.collector_guard import check_collection_allowed, is_marker, record_progress

BATCH = 100
DRY_RUN_LIMIT = 10_000  # expired reservations that a dry run counts at most
GRACE = timedelta(hours=24)
MAX_AGE = timedelta(days=36_525)


@dataclass(frozen=True)
class Rules:
    """What to delete. Raises InvalidInput.

    grace: keep objects younger than this, and those of vectors purged more recently than this. retention: purge vectors
    deleted longer ago than this; None: purge none. dry_run: only count.
    """

    grace: timedelta = GRACE
    retention: timedelta | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.grace < DEADLINE:
            raise InvalidInput(
                f"The grace period {self.grace} is shorter than a registration may take ({DEADLINE}).",
                f"Use a grace period of at least {DEADLINE}; the default is {GRACE}.",
            )
        if self.retention is not None and self.retention < timedelta(0):
            raise InvalidInput(f"The retention period {self.retention} is negative.", "Use zero or more.")
        if max(self.grace, self.retention or self.grace) > MAX_AGE:
            raise InvalidInput(
                "The grace or retention period is longer than a century.", f"Use at most {MAX_AGE.days:,} days."
            )


@dataclass(frozen=True)
class Collection:
    """Progress of a collection; of a dry run, what it would have done.

    released: reservations. purged: vectors. seen, young, removed: objects of the library; freed: bytes of the removed
    ones. foreign: objects that no library created, which are left alone. cursor: a later run can resume after this key.
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
    """Delete garbage, and record the run in the audit log. Yield the progress, and last the result.

    Stopping at any time is safe. after: resume after this object key. pace: called before each deletion; it may wait.
    Raises CollectorPaused, Unavailable.
    """
    position = check_collection_allowed(catalogue, artifacts)
    if not rules.dry_run:
        record_progress(artifacts, position)
    done = Collection(released=_release(catalogue, rules, actor), purged=_purge(catalogue, rules, actor), cursor=after)
    yield done
    newest = artifacts.now() - rules.grace
    for batch in iter_batches(artifacts.list(after), BATCH):
        objects = [found for found in batch if is_library_key(found.key)]
        old = [found for found in objects if found.modified < newest]
        referenced = catalogue.registrations.find_referenced([found.key for found in old], purged_within=rules.grace)
        doomed = [found for found in old if found.key not in referenced]
        if doomed and not rules.dry_run:
            _remove(catalogue, artifacts, doomed, actor, pace)
        done = replace(
            done,
            seen=done.seen + len(objects),
            young=done.young + len(objects) - len(old),
            removed=done.removed + len(doomed),
            freed=done.freed + sum(found.size for found in doomed),
            foreign=done.foreign + sum(not is_library_key(found.key) and not is_marker(found.key) for found in batch),
            cursor=batch[-1].key,
        )
        yield done
    if not rules.dry_run:
        catalogue.audit_log.append(
            "collector.run", "all" if after is None else f"from {after}", asdict(done), actor=actor
        )


def _remove(
    catalogue: Catalogue, artifacts: Artifacts, doomed: Sequence[StoredObject], actor: str, pace: Callable[[], None]
) -> None:
    check_collection_allowed(catalogue, artifacts)  # again: a restoration may have started
    # The audit entry comes first, so that every deletion has one even if the process is killed.
    keys = [found.key for found in doomed]
    catalogue.audit_log.append("collector.remove", keys[0], {"objects": keys}, actor=actor)
    for key in keys:
        pace()
        artifacts.delete(key)


def _release(catalogue: Catalogue, rules: Rules, actor: str) -> int:
    """Release expired reservations; their uploads can no longer be published."""
    if rules.dry_run:
        return len(catalogue.registrations.list_expired(DRY_RUN_LIMIT))
    count = 0
    while stuck := catalogue.registrations.list_expired(BATCH):
        count += len(stuck)
        for upload in stuck:
            catalogue.registrations.release(upload)
        ids = [upload.vector_id for upload in stuck]
        catalogue.audit_log.append("collector.release", ids[0], {"uploads": ids}, actor=actor)
    return count


def _purge(catalogue: Catalogue, rules: Rules, actor: str) -> int:
    if rules.retention is None:
        return 0
    before = catalogue.change_log.now() - rules.retention  # the database's clock, which dates deletions
    count = 0
    for page in iter_pages(catalogue.vectors, Filter(status=Status.DELETED)):
        for record in page.records:
            if record.deleted_at is None or record.deleted_at > before:
                continue
            # Conflict: restored or changed since the page was read.
            with suppress(VectorNotFound, Conflict):
                if not rules.dry_run:
                    catalogue.vectors.purge(record.id, expected_revision=record.revision, actor=actor)
                count += 1
    return count
