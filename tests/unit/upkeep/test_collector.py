"""Garbage collection on in-memory stores with a fake clock."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from ulid import ULID

from tests.support.interleaving import Interleaving
from tests.support.library import memory_library
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.catalogue import memory_catalogue
from tests.support.ports import wrap_ports
from tests.support.registrations import register
from tests.support.upkeep import DATA, DAY, DEADLINE, SHA256, Beats, MemoryLibrary, drafted
from vlibrary.domain.card import Status, VectorRecord
from vlibrary.domain.changes import LogPosition
from vlibrary.domain.errors import ArtifactsUnavailable, CollectorPaused, InvalidInput, UploadExpired, VectorNotFound
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.artifacts import StoredObject, artifact_key, draft_name
from vlibrary.upkeep.collector import Collection, Rules, collect
from vlibrary.upkeep.collector_guard import (
    allow_collection,
    check_collection_allowed,
    list_markers,
    pause_collection,
    record_progress,
    update_markers,
)
from vlibrary.upkeep.heartbeat import RETRY_S


@pytest.fixture
def library() -> MemoryLibrary:
    return MemoryLibrary()


def test_only_old_unreferenced_objects_are_removed(library: MemoryLibrary) -> None:
    orphan = library.store()
    active, deleted, purged = (library.publish() for _ in range(3))
    for record in (deleted, purged):
        library.catalogue.vectors.delete(record.id)
    library.catalogue.vectors.purge(purged.id)
    library.clock.at += DAY + timedelta(seconds=1)
    reserved, young = library.store(), library.store()
    library.catalogue.registrations.release(young)
    done = library.collect()
    assert library.keys() == sorted([active.object_key, deleted.object_key, reserved.object_key, young.object_key])
    assert (done.seen, done.removed, done.freed, done.young) == (6, 2, 2 * len(DATA), 2)
    with pytest.raises(UploadExpired):
        library.catalogue.registrations.publish(orphan, drafted(orphan))


def test_a_dry_run_counts_the_same_and_changes_nothing(library: MemoryLibrary) -> None:
    library.store()
    library.catalogue.vectors.delete(library.publish().id)
    library.clock.at += 2 * DAY
    before = library.catalogue.change_log.position(), library.keys(), library.catalogue.audit_log.read(0, 100)
    counted = library.collect(Rules(retention=DAY, dry_run=True))
    assert (library.catalogue.change_log.position(), library.keys(), library.catalogue.audit_log.read(0, 100)) == before
    assert replace(counted, cursor=None) == Collection(released=1, purged=1, seen=2, removed=1, freed=len(DATA))
    done = library.collect(Rules(retention=DAY))
    assert (done.released, done.purged) == (1, 1)
    assert done.removed == 1  # not the purged vector's object: see the next test
    library.clock.at += 2 * DAY
    assert library.collect().removed == 1
    assert library.keys() == []


def test_a_store_clock_that_is_ahead_purges_nothing_early(library: MemoryLibrary) -> None:
    class Ahead(MemoryArtifacts):
        def now(self) -> datetime:
            return library.clock.at + 400 * DAY

    record = library.publish()
    library.catalogue.vectors.delete(record.id)
    library.clock.at += DAY
    ahead = Ahead(library.clock)
    update_markers(library.catalogue, library.artifacts)
    for mark in list_markers(library.artifacts):
        ahead.put(mark, b"", hashlib.sha256(b"").hexdigest())
    (*_, done) = collect(library.catalogue, ahead, Rules(retention=30 * DAY), actor="tester")
    assert done.purged == 0
    library.catalogue.vectors.restore(record.id)


def test_the_object_of_a_purged_vector_is_kept_for_the_grace_period(library: MemoryLibrary) -> None:
    record = library.publish()
    library.clock.at += 30 * DAY
    library.catalogue.vectors.delete(record.id)
    library.catalogue.vectors.purge(record.id)
    library.clock.at += DAY - timedelta(seconds=1)
    assert library.collect().removed == 0
    assert library.artifacts.get(record.object_key, SHA256) == DATA
    library.clock.at += timedelta(seconds=1)
    assert library.collect().removed == 1


def test_a_grace_period_shorter_than_a_registration_is_an_error() -> None:
    with pytest.raises(InvalidInput):
        Rules(grace=DEADLINE - timedelta(seconds=1))
    with pytest.raises(InvalidInput):
        Rules(retention=-DAY)
    with pytest.raises(InvalidInput):
        Rules(grace=999_999 * DAY)
    with pytest.raises(InvalidInput):
        Rules(retention=999_999 * DAY)


def test_expired_reservations_are_released_and_open_ones_are_kept(library: MemoryLibrary) -> None:
    stuck = [library.reserve() for _ in range(250)]
    library.clock.at += DEADLINE
    still_open = library.reserve()
    assert library.collect().released == len(stuck)
    assert library.catalogue.registrations.list_expired(10) == []
    assert library.catalogue.registrations.publish(still_open, drafted(still_open)).version == 1


def test_only_vectors_deleted_before_the_retention_period_are_purged(library: MemoryLibrary) -> None:
    long_ago, restored, lately = (library.publish() for _ in range(3))
    for record in (long_ago, restored):
        library.catalogue.vectors.delete(record.id)
    library.clock.at += 30 * DAY
    library.catalogue.vectors.restore(restored.id)
    library.catalogue.vectors.delete(lately.id)
    assert library.collect().purged == 0
    assert library.collect(Rules(retention=7 * DAY)).purged == 1
    left = library.catalogue.vectors.page(Filter(status=None), limit=10).records
    assert {record.id for record in left} == {restored.id, lately.id}


def test_every_removal_is_in_the_audit_log_first(library: MemoryLibrary) -> None:
    library.store()
    library.clock.at += 2 * DAY
    seen: list[str] = []

    def pace() -> None:
        newest = library.catalogue.audit_log.read(0, 100)[-1]
        seen.extend(newest.detail["objects"])
        assert newest.actor == "tester"

    keys = library.keys()
    library.collect(pace=pace)
    assert seen == keys


def test_an_interrupted_run_resumes_after_its_cursor(library: MemoryLibrary) -> None:
    for _ in range(250):
        library.store()
    library.clock.at += 2 * DAY
    keys = library.keys()
    steps = collect(library.catalogue, library.artifacts, Rules(), actor="tester")
    next(steps)
    first = next(steps)
    assert first.removed == 100
    assert library.keys() == keys[100:]
    rest = library.collect(after=first.cursor)
    assert (rest.seen, rest.removed) == (150, 150)
    assert library.keys() == []


def test_a_restored_catalogue_must_be_examined_first(library: MemoryLibrary) -> None:
    library.collect()
    library.store()
    library.clock.at += 2 * DAY
    position = library.catalogue.change_log.renew_epoch()
    with pytest.raises(CollectorPaused):
        library.collect()
    with pytest.raises(CollectorPaused):
        library.collect(Rules(dry_run=True))
    assert len(library.keys()) == 1
    allow_collection(library.artifacts, position, instead_of=list_markers(library.artifacts))
    assert library.collect().removed == 1


def test_a_pause_stops_a_running_collector(library: MemoryLibrary) -> None:
    for _ in range(250):
        library.store()
    library.clock.at += 2 * DAY
    steps = collect(library.catalogue, library.artifacts, Rules(), actor="tester")
    next(steps)
    next(steps)
    pause_collection(library.artifacts)
    with pytest.raises(CollectorPaused):
        next(steps)
    assert len(library.keys()) == 150


def test_a_pause_that_starts_during_the_examination_stays(library: MemoryLibrary) -> None:
    pause_collection(library.artifacts)
    before, position = list_markers(library.artifacts), library.catalogue.change_log.position()
    pause_collection(library.artifacts)
    allow_collection(library.artifacts, position, instead_of=before)
    with pytest.raises(CollectorPaused):
        library.collect()
    allow_collection(library.artifacts, position, instead_of=list_markers(library.artifacts))
    assert library.collect().seen == 0


def test_recording_progress_ends_no_pause(library: MemoryLibrary) -> None:
    position = check_collection_allowed(library.catalogue, library.artifacts)
    pause_collection(library.artifacts)
    record_progress(library.artifacts, position)
    with pytest.raises(CollectorPaused):
        library.collect()


def test_a_store_without_markers_is_collected_only_if_it_is_empty() -> None:
    """A database restored before the first collection, or the store of another library."""
    library = MemoryLibrary()
    library.publish()
    library.store()
    library.clock.at += 2 * DAY
    stranger = memory_catalogue(library.clock)
    with pytest.raises(CollectorPaused):
        list(collect(stranger, library.artifacts, Rules(), actor="tester"))
    for mark in list_markers(library.artifacts):
        library.artifacts.delete(mark)
    for catalogue in (stranger, library.catalogue):
        update_markers(catalogue, library.artifacts)
        with pytest.raises(CollectorPaused):
            list(collect(catalogue, library.artifacts, Rules(), actor="tester"))
    assert len(library.keys()) == 2
    update_markers(stranger, MemoryArtifacts())
    assert list(collect(stranger, MemoryArtifacts(), Rules(dry_run=True), actor="tester"))[-1].seen == 0


def test_a_marker_replaced_by_a_later_one_while_it_is_written_is_no_error(library: MemoryLibrary) -> None:
    """Fault cycle 300922: S3 reported that the marker existed, and then it did not."""

    class Raced(MemoryArtifacts):
        def put(self, key: str, data: bytes, sha256: str) -> None:
            super().put(key, data, sha256)
            if key.startswith(f"collector/{before.epoch}.{before.seq}."):
                record_progress(self, after)
                self.get(key, sha256)  # as S3Artifacts reads it back

    before = library.catalogue.change_log.position()
    library.publish()
    after = library.catalogue.change_log.position()
    raced = Raced()
    record_progress(raced, before)
    assert check_collection_allowed(library.catalogue, raced) == after
    assert len(list_markers(raced)) == 1


def test_a_damaged_listing_neither_pauses_nor_hides_a_pause(library: MemoryLibrary) -> None:
    """Fault cycle 400029: a flipped bit in an S3 listing, which has no digest."""

    class Flipped(MemoryArtifacts):
        flips = 0

        def list(self, after: str | None = None) -> Iterator[StoredObject]:
            self.flips -= 1
            for found in super().list(after):
                key = found.key.replace("e", "d").replace("u", "t") if self.flips >= 0 else found.key
                yield replace(found, key=key)

    library.publish()
    artifacts = Flipped()
    allow_collection(artifacts, library.catalogue.change_log.position(), instead_of=())
    artifacts.flips = 1
    assert check_collection_allowed(library.catalogue, artifacts) == library.catalogue.change_log.position()
    pause_collection(artifacts)
    for flips in (0, 1, 2):
        artifacts.flips = flips
        with pytest.raises(CollectorPaused):
            check_collection_allowed(library.catalogue, artifacts)


def test_a_new_library_may_collect_once_its_store_becomes_available() -> None:
    class Away(MemoryArtifacts):
        away = True

        def put(self, key: str, data: bytes, sha256: str) -> None:
            if self.away:
                raise ArtifactsUnavailable("It is away.", "Wait.")
            super().put(key, data, sha256)

    artifacts = Away()
    library = memory_library(artifacts)
    catalogue, index = library.catalogue, library.index
    beats = Beats(library)
    artifacts.away = False
    assert list_markers(artifacts) == frozenset()
    register(catalogue)
    beats.seconds += RETRY_S
    beats.tick()
    assert index.position == catalogue.change_log.position() == check_collection_allowed(catalogue, artifacts)


def test_one_invalid_marker_outweighs_a_valid_one(library: MemoryLibrary) -> None:
    """The process that recorded the later position was killed before it deleted the earlier marker."""
    update_markers(library.catalogue, library.artifacts)
    lost = LogPosition(library.catalogue.change_log.position().epoch, 7, "lost")
    library.publish()
    library.artifacts.put(f"collector/{lost.epoch}.{lost.seq}.{lost.token}", b"", hashlib.sha256(b"").hexdigest())
    with pytest.raises(CollectorPaused):
        library.collect()


@pytest.mark.parametrize(
    "foreign", ["catalogue.db", "notes/today.txt", "manifests/a.json", f"{'0' * 26}/readme", "check-mate", "draft-1"]
)
def test_foreign_objects_are_left_alone(library: MemoryLibrary, foreign: str) -> None:
    library.artifacts.put(foreign, DATA, SHA256)
    library.store()
    library.clock.at += 2 * DAY
    done = library.collect()
    assert (done.seen, done.removed, done.foreign) == (1, 1, 1)
    assert library.keys() == [foreign]


@pytest.mark.parametrize(
    "make",
    [
        lambda: artifact_key(str(ULID()), SHA256),
        lambda: f"{ULID()}/{draft_name()}",
        lambda: f"collector/{draft_name()}",
        draft_name,
    ],
)
def test_leftovers_of_killed_processes_are_removed(library: MemoryLibrary, make: Callable[[], str]) -> None:
    library.artifacts.put(make(), DATA, SHA256)
    library.clock.at += 2 * DAY
    assert library.collect().removed == 1
    assert library.keys() == []


def test_collector_markers_are_neither_counted_nor_removed(library: MemoryLibrary) -> None:
    library.publish()
    library.collect()
    library.clock.at += 2 * DAY
    done = library.collect()
    assert (done.seen, done.foreign) == (1, 0)
    library.catalogue.change_log.renew_epoch()
    with pytest.raises(CollectorPaused):
        library.collect()


class Bustle:
    """Writers, a deleter and collectors on one library. Every port call is a step, and the seed determines the order.

    The clock may jump by days between two steps, and writers may stop after any step.
    """

    def __init__(self, seed: int) -> None:
        self.library = MemoryLibrary()
        self._chance = random.Random(seed)
        self._turns = Interleaving(seed)
        self._catalogue = wrap_ports(self.library.catalogue, lambda port, _: self._turns.gate(port))
        self._artifacts = self._turns.gate(self.library.artifacts)
        self.kept: list[VectorRecord] = []

    def run(self) -> None:
        collectors = [self._collect] * 2
        self._turns.run(self._write, self._write, self._write, self._hide, *collectors, between=self._jump)

    def _write(self) -> None:
        upload = self.library.upload()
        with suppress(UploadExpired):
            self._catalogue.registrations.reserve(upload)
            if self._chance.random() < 0.2:
                return
            self._artifacts.put(upload.object_key, DATA, SHA256)
            if self._chance.random() < 0.4:
                return
            self.kept.append(self._catalogue.registrations.publish(upload, drafted(upload)))

    def _hide(self) -> None:
        """Delete a vector and restore it, unless it was purged in between."""
        for record in list(self.kept):
            self.kept.remove(record)
            self._catalogue.vectors.delete(record.id)
            with suppress(VectorNotFound):
                self._catalogue.vectors.restore(record.id)
                self.kept.append(record)

    def _collect(self) -> None:
        list(collect(self._catalogue, self._artifacts, Rules(retention=DAY), actor="tester"))

    def _jump(self) -> None:
        self.library.clock.at += self._chance.choice([timedelta(0)] * 25 + [timedelta(minutes=10)] * 2 + [2 * DAY])


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_no_interleaving_of_writers_a_deleter_and_two_collectors_loses_a_vector(first: int) -> None:
    kept = 0
    removed = 0
    for seed in range(first, first + 100):
        bustle = Bustle(seed)
        bustle.run()
        library = bustle.library
        for record in bustle.kept:
            assert library.artifacts.get(library.catalogue.vectors.get(record.id).object_key, SHA256) == DATA, seed
        kept += len(bustle.kept)
        library.clock.at += 3 * DAY
        left = len(library.keys())
        library.collect(Rules(retention=DAY))
        removed += left - len(library.keys())
        records = library.catalogue.vectors.page(Filter(status=None), limit=100).records
        assert library.keys() == sorted(record.object_key for record in records), seed
    assert kept > 50
    assert removed > 20


def test_a_stalled_collector_removes_nothing_registered_since(library: MemoryLibrary) -> None:
    library.store()
    library.clock.at += 2 * DAY
    came: list[VectorRecord] = []

    def stall() -> None:
        if came:
            return
        library.clock.at += 30 * DAY
        came.append(library.publish())  # the same bytes
        library.collect()

    library.collect(pace=stall)
    assert library.keys() == [came[0].object_key]
    assert library.catalogue.vectors.get(came[0].id).status is Status.ACTIVE
