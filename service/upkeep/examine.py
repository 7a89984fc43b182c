"""Look whether the library keeps its promises: read-only, beside a running service, a part at a time.

What looks wrong may only have changed between two looks, so it is looked at again before it is reported.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from vlibrary.domain.card import Status, VectorRecord
from vlibrary.domain.errors import AliasNotFound, ArtifactLost, InvalidInput, VectorNotFound
from vlibrary.domain.filters import EVERYTHING_ACTIVE, Filter
from vlibrary.domain.objects import is_ours
from vlibrary.domain.ports import Alias, Artifacts, Catalogue
from vlibrary.library.paging import abreast, batches, changes, pages
from vlibrary.upkeep.findings import Finding, Progress, waste, wrong
from vlibrary.upkeep.store_ownership import examine_marks

STEP = 500
# An object of a registration that is under way has no vector yet.
YOUNG = timedelta(hours=1)
AGES = (timedelta(days=1), timedelta(days=7), timedelta(days=30))

_LOST_CURE = "Put the object back from a backup (`vlibrary restore`), or delete the vector and register it again."
_LOG_CURE = "Restore the catalogue from a backup; until then, do not trust what is found or not found."

Report = Iterator[Finding | Progress]


def examine(catalogue: Catalogue, artifacts: Artifacts, *, sample: float = 1.0, cursor: str | None = None) -> Report:
    """Everything but the index, in turn: findings, and how far it is.

    sample: the share of objects that are read and hashed; all others are only looked for. cursor: of a Progress of an
    examination that was broken off; what was done before it is left out. Raises InvalidInput for another cursor.
    """
    passes: Mapping[str, Callable[[str | None], Report]] = {
        "vectors": lambda at: examine_vectors(catalogue, artifacts, sample=sample, cursor=at),
        "log": lambda _: examine_log(catalogue),
        "aliases": lambda _: examine_aliases(catalogue),
        "uploads": lambda _: examine_uploads(catalogue),
        "objects": lambda at: examine_orphans(catalogue, artifacts, after=at),
        "marks": lambda _: examine_marks(catalogue, artifacts),
    }
    begin, _, at = (cursor or "vectors:").partition(":")
    if begin not in passes:
        raise _no_place(cursor)
    for part in list(passes)[list(passes).index(begin) :]:
        try:
            yield from _placed(passes[part](at or None), part, at)
        except InvalidInput as error:
            raise _no_place(cursor) from error
        at = ""


def _no_place(cursor: str | None) -> InvalidInput:
    return InvalidInput(f"There is no examination to go on with at {cursor!r}.", "Give the cursor as it was told.")


def _placed(report: Report, part: str, at: str) -> Report:
    """The pass's report, whose cursors are good for the whole examination."""
    for step in report:
        if isinstance(step, Finding):
            yield step
            continue
        at = step.cursor or at
        yield replace(step, cursor=f"{part}:{at}")


def examine_vectors(catalogue: Catalogue, artifacts: Artifacts, *, sample: float, cursor: str | None = None) -> Report:
    """Whether every vector, deleted ones too, has its bytes."""
    choice = random.Random()  # another sample every time, so that in the end all are read

    def look(record: VectorRecord) -> Finding | None:
        return _examine_object(artifacts, record, read=choice.random() < sample)

    done = 0
    for page in pages(catalogue, Filter(status=None), cursor):
        for record, found in abreast(look, page.records):
            if found is not None and _is_there(catalogue, record.id):
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
            return wrong("object-damaged", record.id, f"{error.detail} It is that of {label}.", _LOST_CURE)
    return None


def _is_there(catalogue: Catalogue, vector_id: str) -> bool:
    try:
        catalogue.get(vector_id, deleted=True)
    except VectorNotFound:  # purged since, so its bytes may be gone
        return False
    return True


@dataclass(frozen=True)
class _Log:
    """The change log, folded. findable: the vectors that an index which follows it holds."""

    seq: int
    findable: frozenset[str]


def examine_log(catalogue: Catalogue) -> Report:
    """Whether the change log has every number, and leads to the vectors that there are."""
    end = catalogue.position().seq
    findable: set[str] = set()
    expected = 1
    for change in changes(catalogue, 0, end):
        if change.seq != expected:
            yield _gap(expected, change.seq - 1)
        expected = change.seq + 1
        (findable.add if change.kind.findable else findable.discard)(change.vector_id)
        if change.seq % STEP == 0:
            yield Progress("change log", change.seq)
    if expected <= end:
        yield _gap(expected, end)
    yield Progress("change log", end)
    yield from _examine_followers(catalogue, _Log(end, frozenset(findable)))


def _gap(first: int, last: int) -> Finding:
    return wrong("log-gap", f"{first}-{last}", f"The change log lacks the entries {first} to {last}.", _LOG_CURE)


def _examine_followers(catalogue: Catalogue, log: _Log) -> Report:
    active = catalogue.ids(EVERYTHING_ACTIVE)
    differing = active ^ log.findable
    if differing:
        differing -= {change.vector_id for change in changes(catalogue, log.seq, catalogue.position().seq)}
    for vector_id in sorted(differing):
        if vector_id in active:
            detail = f"The vector {vector_id} is active, but the change log does not say so: no index holds it."
        else:
            detail = f"The change log says that vector {vector_id} can be found, but it is not active."
        yield wrong("log-differs", vector_id, detail, _LOG_CURE)


def examine_aliases(catalogue: Catalogue) -> Report:
    """Whether every alias points to an active vector of its name."""
    aliases = catalogue.aliases()
    for alias in aliases:
        status = _status(catalogue, alias)
        if status is not Status.ACTIVE and _still(catalogue, alias):
            label = f"{alias.name}@{alias.alias}"
            detail = f"The alias {label} points to vector {alias.vector_id}, which is {status or 'gone'}."
            cure = "Move the alias to an active vector, drop it, or restore the vector."
            yield wrong("alias-dangling", label, detail, cure)
    yield Progress("aliases", len(aliases))


def _status(catalogue: Catalogue, alias: Alias) -> Status | None:
    try:
        return catalogue.get(alias.vector_id, deleted=True).status
    except VectorNotFound:
        return None


def _still(catalogue: Catalogue, alias: Alias) -> bool:
    try:
        return catalogue.alias(alias.name, alias.alias) == alias
    except AliasNotFound:
        return False


def examine_uploads(catalogue: Catalogue) -> Report:
    """Registrations that never ended; their idempotency keys are free again, as nobody can publish under them."""
    stuck = catalogue.stuck_uploads(STEP)
    for upload in stuck:
        detail = f"The registration of {upload.vector_id} neither ended nor was given up by {upload.deadline:%F %T}."
        yield waste("upload-stuck", upload.idempotency_key, detail)
    yield Progress("reservations", len(stuck))


def examine_orphans(catalogue: Catalogue, artifacts: Artifacts, *, after: str | None = None) -> Report:
    """Objects with key > after that no vector and no open reservation has, counted by age."""
    now = artifacts.now()
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    done = 0
    for batch in batches(artifacts.list(after), STEP):
        old = {found.key: found for found in batch if is_ours(found.key) and now - found.modified > YOUNG}
        for key in sorted(old.keys() - catalogue.references(list(old), purged_within=YOUNG)):
            age = _age(now - old[key].modified)
            counts[age] += 1
            sizes[age] += old[key].size
        done += len(batch)
        yield Progress("objects", done, batch[-1].key)
    for age, count in counts.items():
        yield waste("orphans", age, f"{count} objects, {age} old, with {sizes[age]:,} bytes belong to no vector.")


def _age(age: timedelta) -> str:
    younger = next((limit for limit in AGES if age <= limit), None)
    return f"at most {younger.days} d" if younger else f"more than {AGES[-1].days} d"
