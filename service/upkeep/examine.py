"""Examination of a library: checks its invariants, read-only and while a service is running.

An apparent violation may be a change between two reads, so it is read again before it is reported.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from datetime import timedelta

from vlibrary.domain.card import Status, VectorRecord
from vlibrary.domain.errors import AliasNotFound, ArtifactLost, InvalidInput, VectorNotFound
from vlibrary.domain.filters import EVERYTHING_ACTIVE, Filter
from vlibrary.domain.ports.artifacts import Artifacts, is_library_key
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.registration import Alias
from vlibrary.library.paging import iter_batches, iter_changes, iter_pages, map_in_parallel
from vlibrary.upkeep.findings import Finding, Progress, Report, waste, wrong
from vlibrary.upkeep.store_ownership import examine_ownership

BATCH = 500
# The object of a registration in progress has no vector yet.
YOUNG = timedelta(hours=1)
AGES = (timedelta(days=1), timedelta(days=7), timedelta(days=30))

_LOST_CURE = "Restore the object from a backup (`vlibrary restore`), or delete the vector and register it again."
_LOG_CURE = "Restore the catalogue from a backup; until then, search results may be wrong."


def examine(catalogue: Catalogue, artifacts: Artifacts, *, sample: float = 1.0, cursor: str | None = None) -> Report:
    """Examine everything except the index. Yield findings and progress.

    sample: share of objects to read and hash; the others are only looked up. cursor: resume from the cursor of a
    Progress, skipping everything before it. Raises InvalidInput for an unknown cursor.
    """
    passes: Mapping[str, Callable[[str | None], Report]] = {
        "vectors": lambda at: examine_vectors(catalogue, artifacts, sample=sample, cursor=at),
        "log": lambda _: examine_log(catalogue),
        "aliases": lambda _: examine_aliases(catalogue),
        "uploads": lambda _: examine_uploads(catalogue),
        "objects": lambda at: examine_orphans(catalogue, artifacts, after=at),
        "markers": lambda _: examine_ownership(catalogue, artifacts),
    }
    begin, _, at = (cursor or "vectors:").partition(":")
    invalid = InvalidInput(f"Invalid cursor {cursor!r}.", "Pass the cursor exactly as `vlibrary doctor` printed it.")
    if begin not in passes:
        raise invalid
    for part in list(passes)[list(passes).index(begin) :]:
        try:
            for step in passes[part](at or None):
                if isinstance(step, Progress):
                    at = step.cursor or at
                    yield replace(step, cursor=f"{part}:{at}")
                else:
                    yield step
        except InvalidInput as error:
            raise invalid from error
        at = ""


def examine_vectors(catalogue: Catalogue, artifacts: Artifacts, *, sample: float, cursor: str | None = None) -> Report:
    """Check that every vector, including deleted ones, has its object."""
    choice = random.Random()  # a different sample each time, so that repeated examinations cover all objects

    def examine_record(record: VectorRecord) -> Finding | None:
        return _examine_object(artifacts, record, read=choice.random() < sample)

    done = 0
    for page in iter_pages(catalogue.vectors, Filter(status=None), cursor):
        for record, found in map_in_parallel(examine_record, page.records):
            if found is not None and _status(catalogue, record.id) is not None:
                yield found
        done += len(page.records)
        yield Progress("vectors", done, page.next)


def _examine_object(artifacts: Artifacts, record: VectorRecord, *, read: bool) -> Finding | None:
    label = f"{record.name} version {record.version} ({record.status})"
    stored = artifacts.stat(record.object_key)
    if stored is None:
        return wrong("object-missing", record.id, f"The object of {label} is missing: {record.object_key}.", _LOST_CURE)
    if stored.size != record.size:
        detail = f"The object of {label} has {stored.size} bytes instead of {record.size}: {record.object_key}."
        return wrong("object-size", record.id, detail, _LOST_CURE)
    if read:
        try:
            artifacts.get(record.object_key, record.sha256)
        except ArtifactLost as error:
            return wrong("object-damaged", record.id, f"{error.detail} It belongs to {label}.", _LOST_CURE)
    return None


def _status(catalogue: Catalogue, vector_id: str) -> Status | None:
    """Return the vector's status; None if it is purged, so that its object may be deleted."""
    try:
        return catalogue.vectors.get(vector_id, deleted=True).status
    except VectorNotFound:
        return None


def examine_log(catalogue: Catalogue) -> Report:
    """Check that the change log has no gaps and yields exactly the active vectors."""
    end = catalogue.change_log.position().seq
    findable: set[str] = set()
    expected = 1
    for change in iter_changes(catalogue.change_log, 0, end):
        if change.seq != expected:
            yield _gap(expected, change.seq - 1)
        expected = change.seq + 1
        (findable.add if change.kind.findable else findable.discard)(change.vector_id)
        if change.seq % BATCH == 0:
            yield Progress("change log", change.seq)
    if expected <= end:
        yield _gap(expected, end)
    yield Progress("change log", end)
    yield from _examine_findable(catalogue, end, findable)


def _gap(first: int, last: int) -> Finding:
    return wrong("log-gap", f"{first}-{last}", f"Entries {first} to {last} of the change log are missing.", _LOG_CURE)


def _examine_findable(catalogue: Catalogue, seq: int, findable: Set[str]) -> Report:
    """Check that the vectors that an index built from the log up to seq contains are the active ones."""
    active = catalogue.vectors.ids(EVERYTHING_ACTIVE)
    differing = active ^ findable
    if differing:
        newest = catalogue.change_log.position().seq
        differing -= {change.vector_id for change in iter_changes(catalogue.change_log, seq, newest)}
    for vector_id in sorted(differing):
        if vector_id in active:
            detail = f"Vector {vector_id} is active, but not according to the change log, so no index contains it."
        else:
            detail = f"Vector {vector_id} is active according to the change log, but not in the catalogue."
        yield wrong("log-differs", vector_id, detail, _LOG_CURE)


def examine_aliases(catalogue: Catalogue) -> Report:
    """Check that every alias points to an active vector."""
    aliases = catalogue.aliases.list()
    for alias in aliases:
        status = _status(catalogue, alias.vector_id)
        if status is not Status.ACTIVE and _is_current(catalogue, alias):
            label = f"{alias.name}@{alias.alias}"
            detail = f"The alias {label} points to vector {alias.vector_id}, which is {status or 'purged'}."
            cure = "Move the alias to an active vector, drop it, or undelete the vector."
            yield wrong("alias-dangling", label, detail, cure)
    yield Progress("aliases", len(aliases))


def _is_current(catalogue: Catalogue, alias: Alias) -> bool:
    try:
        return catalogue.aliases.get(alias.name, alias.alias) == alias
    except AliasNotFound:
        return False


def examine_uploads(catalogue: Catalogue) -> Report:
    """Report expired reservations. They can no longer be published, and their idempotency keys are free."""
    stuck = catalogue.registrations.list_expired(BATCH)
    for upload in stuck:
        detail = f"The registration of {upload.vector_id} was not completed by its deadline, {upload.deadline:%F %T}."
        yield waste("upload-stuck", upload.idempotency_key, detail)
    yield Progress("reservations", len(stuck))


def examine_orphans(catalogue: Catalogue, artifacts: Artifacts, *, after: str | None = None) -> Report:
    """Count objects with key > after that no vector and no open reservation references, by age."""
    now = artifacts.now()
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    done = 0
    for batch in iter_batches(artifacts.list(after), BATCH):
        old = {found.key: found for found in batch if is_library_key(found.key) and now - found.modified > YOUNG}
        for key in sorted(old.keys() - catalogue.registrations.find_referenced(list(old), purged_within=YOUNG)):
            limit = next((limit for limit in AGES if now - old[key].modified <= limit), None)
            age = f"at most {limit.days} d" if limit else f"more than {AGES[-1].days} d"
            counts[age] += 1
            sizes[age] += old[key].size
        done += len(batch)
        yield Progress("objects", done, batch[-1].key)
    for age, count in counts.items():
        yield waste("orphans", age, f"Unreferenced objects, {age} old: {count} ({sizes[age]:,} bytes).")
