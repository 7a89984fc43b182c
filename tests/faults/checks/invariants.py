"""Invariants that must hold after any fault, checked through a restarted service and in its stores directly."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from tests.faults.checks.ledger import Entry, Ledger, State
from tests.faults.processes.api_process import Door
from tests.faults.processes.clients import MOST_MATCHES
from tests.faults.processes.world import World
from tests.support.memory.index import MemoryIndex
from tests.support.memory.worker import EMBEDDER, MODEL, MemoryWorker
from vlibrary.client import ServiceError
from vlibrary.domain.card import Status, VectorRecord
from vlibrary.domain.changes import Change, ChangeKind
from vlibrary.domain.errors import ArtifactLost
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.query import Query
from vlibrary.library.reindex import catch_up
from vlibrary.upkeep.collector_guard import is_marker

QUERIES = 4
PAGE = 500


def check(world: World, doors: Sequence[Door], ledger: Ledger, rng: random.Random) -> None:
    """Record violations in the ledger, and update it with what is now known to have happened."""
    artifacts = world.artifacts
    with world.catalogue() as catalogue:
        records = _records(catalogue)
        log = _log(catalogue)
        _check_logs(catalogue, log, records, ledger)
        _check_records(records, artifacts, ledger)
        for entry in ledger.entries:
            _settle(entry, records, log, ledger)
        _check_aliases(catalogue, ledger)
        for door in doors:
            _check_answers(door, records, ledger)
            _check_index(door, catalogue, artifacts, ledger, rng)


def check_nothing_is_left(world: World, ledger: Ledger) -> None:
    """Check that a collection past every deadline leaves no unreferenced object and no partial file."""
    with world.catalogue() as catalogue:
        objects = {key for key in world.objects() if not is_marker(key)}
        orphans = objects - {record.object_key for record in _records(catalogue)}
        ledger.expect(not orphans, f"left behind: {sorted(orphans)}")
        stuck = catalogue.registrations.list_expired(limit=PAGE)
        ledger.expect(not stuck, f"reservations left behind: {stuck}")


def _records(catalogue: Catalogue) -> list[VectorRecord]:
    return list(catalogue.vectors.page(Filter(status=None), limit=PAGE).records)


def _log(catalogue: Catalogue) -> list[Change]:
    return catalogue.change_log.read(after=0, limit=10**6)


def _check_logs(catalogue: Catalogue, log: list[Change], records: list[VectorRecord], ledger: Ledger) -> None:
    seqs = [change.seq for change in log]
    ledger.expect(seqs == list(range(1, catalogue.change_log.position().seq + 1)), f"the change log has gaps: {seqs}")
    audit = catalogue.audit_log.read(after=0, limit=10**6)
    ledger.expect([one.seq for one in audit] == list(range(1, len(audit) + 1)), "the audit log has gaps")
    last = {change.vector_id: change.kind for change in log}
    findable = {vector_id for vector_id, kind in last.items() if kind.findable}
    active = {record.id for record in records if record.status is Status.ACTIVE}
    ledger.expect(findable == active, f"the change log has {findable ^ active} otherwise than the records")
    counts = Counter(change.vector_id for change in log if change.kind is ChangeKind.PUBLISHED)
    ledger.expect(set(counts.values()) <= {1}, f"published more than once: {counts.most_common(1)}")


def _check_records(records: list[VectorRecord], artifacts: Artifacts, ledger: Ledger) -> None:
    for record in records:
        try:
            artifacts.get(record.object_key, record.sha256)
        except ArtifactLost as error:
            ledger.expect(False, f"{record.status} vector {record.id} has no bytes: {error}")
    versions = Counter((record.name, record.version) for record in records)
    ledger.expect(set(versions.values()) <= {1}, f"two vectors with one version: {versions.most_common(1)}")
    known = {entry.description for entry in ledger.entries}
    strange = [record.id for record in records if record.card.description not in known]
    ledger.expect(not strange, f"{strange} was never registered")


def _settle(entry: Entry, records: list[VectorRecord], log: list[Change], ledger: Ledger) -> None:
    mine = [record for record in records if record.card.description == entry.description]
    ledger.expect(len(mine) <= 1, f"{entry} has {len(mine)} vectors")
    if mine:
        known = entry.vector_id in (None, mine[0].id)
        ledger.expect(known, f"{entry} has become {mine[0].id}")
        entry.vector_id = mine[0].id
        state = State(mine[0].status)
    else:
        purged = any(change.kind is ChangeKind.PURGED and change.vector_id == entry.vector_id for change in log)
        state = State.PURGED if purged else State.ABSENT
    ledger.expect(state in entry.possible, f"{entry} is {state}")
    entry.possible.clear()
    entry.possible.add(state)


def _check_aliases(catalogue: Catalogue, ledger: Ledger) -> None:
    found = {(alias.name, alias.alias): alias.vector_id for alias in catalogue.aliases.list()}
    active = {entry.vector_id for entry in ledger.entries if entry.is_certainly(State.ACTIVE)}
    ledger.expect(set(found.values()) <= active, f"an alias points to what is not active: {found}")
    for pointer in ledger.pointers:
        now = found.get((pointer.name, pointer.alias))
        ledger.expect(now in pointer.possible, f"{pointer} points to {now}")
        pointer.possible.clear()
        pointer.possible.add(now)


def _check_answers(door: Door, records: list[VectorRecord], ledger: Ledger) -> None:
    """Check that every vector can be downloaded unchanged, and no deleted one."""
    for entry in ledger.entries:
        if entry.is_certainly(State.ACTIVE) and entry.vector_id is not None:
            ledger.expect(_content(door, entry.vector_id) == entry.artifact, f"{entry} comes with other bytes")
        elif entry.vector_id is not None:
            ledger.expect(_content(door, entry.vector_id) is None, f"{entry} is still served")


def _content(door: Door, vector_id: str) -> bytes | None:
    try:
        return door.get_artifact(vector_id)
    except ServiceError as error:
        return None if error.status == 404 else str(error).encode()


def _check_index(door: Door, catalogue: Catalogue, artifacts: Artifacts, ledger: Ledger, rng: random.Random) -> None:
    """Check that the service finds the same as an exact index built from the same change log, with the same scores."""
    index = MemoryIndex(EMBEDDER)
    catch_up(catalogue.change_log, index)
    worker = MemoryWorker(artifacts)
    for entry in rng.sample(ledger.entries, min(QUERIES, len(ledger.entries))):
        query = worker.embed(Query(text=entry.description))
        right = {hit.vector_id: hit.score for hit in index.search(query, model=MODEL.fingerprint, k=MOST_MATCHES)}
        found = {match.id: match.score for match in door.retrieve(entry.description, k=MOST_MATCHES)}
        ledger.expect(found == right, f"retrieval differs from a fresh index: {found} instead of {right}")
