"""Collector guard: one library per store, no unfinished restoration, and a marker that follows the log."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from tests.support.library import memory_library
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.catalogue import memory_catalogue
from tests.support.registrations import register
from tests.support.upkeep import DATA, SHA256, Beats
from vlibrary.domain.changes import LogPosition
from vlibrary.domain.errors import ArtifactsUnavailable, CollectorPaused
from vlibrary.domain.ports.artifacts import Artifacts, StoredObject
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.upkeep.collector_guard import (
    allow_collection,
    check_collection_allowed,
    has_marker,
    list_markers,
    pausing_for_restoration,
    record_progress,
    update_markers,
)
from vlibrary.upkeep.findings import Finding
from vlibrary.upkeep.heartbeat import INTERVAL_S, RETRY_S
from vlibrary.upkeep.store_ownership import examine_ownership


@pytest.fixture
def store() -> MemoryArtifacts:
    return MemoryArtifacts()


def library(store: Artifacts, *, vectors: int = 0) -> Catalogue:
    """Return the catalogue of a service that has started on the store and registered vectors."""
    catalogue = memory_catalogue()
    update_markers(catalogue, store)
    for _ in range(vectors):
        store.put(register(catalogue).object_key, DATA, SHA256)
    return catalogue


def may_collect(catalogue: Catalogue, store: Artifacts) -> bool:
    try:
        check_collection_allowed(catalogue, store)
    except CollectorPaused:
        return False
    return True


def found(catalogue: Catalogue, store: Artifacts) -> list[tuple[str, str]]:
    steps = examine_ownership(catalogue, store)
    return [(step.kind, step.subject) for step in steps if isinstance(step, Finding)]


def marker(position: LogPosition) -> str:
    return f"collector/{position.epoch}.{position.seq}.{position.token}"


class TestOneLibraryPerStore:
    def test_two_libraries_that_start_in_an_empty_store_block_each_other(self, store: MemoryArtifacts) -> None:
        first, second = library(store), memory_catalogue()
        record_progress(store, second.change_log.position())  # it listed the markers before the first one's was written
        for catalogue in (first, second):
            register(catalogue)
            assert not may_collect(catalogue, store)

    def test_a_library_that_joins_the_store_of_another_blocks_both(self, store: MemoryArtifacts) -> None:
        first = library(store, vectors=1)
        assert may_collect(first, store)
        second = library(store, vectors=1)
        for catalogue, other in ((first, second), (second, first)):
            assert not may_collect(catalogue, store)
            assert found(catalogue, store) == [("other-library", other.change_log.position().epoch)]

    def test_an_empty_library_is_not_allowed_next_to_the_marker_of_another(self, store: MemoryArtifacts) -> None:
        library(store)
        second = library(store)
        assert not may_collect(second, store)
        assert marker(second.change_log.position()) not in list_markers(store)

    def test_an_uncleared_library_stays_uncleared_until_examined(self, store: MemoryArtifacts) -> None:
        store.put(register(memory_catalogue()).object_key, DATA, SHA256)
        late = library(store, vectors=1)
        update_markers(late, store)
        assert not may_collect(late, store)
        assert found(late, store) == []
        allow_collection(store, late.change_log.position(), instead_of=list_markers(store))
        assert list_markers(store) == {marker(late.change_log.position())}

    def test_a_claimed_store_is_blocked_again_if_the_other_library_is_alive(self, store: MemoryArtifacts) -> None:
        first, second = library(store, vectors=1), library(store, vectors=1)
        allow_collection(store, second.change_log.position(), instead_of=list_markers(store))
        assert may_collect(second, store)
        assert not may_collect(first, store)
        update_markers(first, store)
        assert not may_collect(second, store)
        assert found(second, store) == [("other-library", first.change_log.position().epoch)]

    def test_former_epochs_of_a_library_are_not_foreign(self, store: MemoryArtifacts) -> None:
        catalogue = library(store, vectors=2)
        for number in range(1_100):  # more entries than one batch
            catalogue.audit_log.append("collector.remove", str(number), {}, actor="tester")
        for _ in range(2):
            catalogue.change_log.renew_epoch()
            update_markers(catalogue, store)
            assert not may_collect(catalogue, store)
        assert len(list_markers(store)) == 3
        assert found(catalogue, store) == []

    def test_a_key_that_only_one_of_two_listings_has_is_ignored(self, store: MemoryArtifacts) -> None:
        class Flipped(MemoryArtifacts):
            flips = 0

            def list(self, after: str | None = None) -> Iterator[StoredObject]:
                self.flips -= 1
                for one in super().list(after):
                    first = len("collector/")
                    digit = "1" if one.key[first] == "0" else "0"
                    damaged = replace(one, key=one.key[:first] + digit + one.key[first + 1 :])
                    yield damaged if self.flips >= 0 else one

        flipping = Flipped()
        catalogue = library(flipping)
        flipping.flips = 1
        assert found(catalogue, flipping) == []
        flipping.flips = 1
        assert may_collect(catalogue, flipping)
        flipping.flips = 2
        assert [kind for kind, _ in found(catalogue, flipping)] == ["other-library"]


class TestRestorations:
    def test_only_the_end_of_a_restoration_ends_its_pause(self, store: MemoryArtifacts) -> None:
        catalogue = library(store, vectors=1)
        before = list_markers(store)
        with pausing_for_restoration(store):
            allow_collection(store, catalogue.change_log.position(), instead_of=before)
            assert not may_collect(catalogue, store)
            assert [kind for kind, _ in found(catalogue, store)] == ["restoration-unfinished"]
        self.assert_paused_until_examined(catalogue, store)

    @pytest.mark.parametrize("end", [KeyboardInterrupt(), GeneratorExit(), ArtifactsUnavailable("Away.", "Wait.")])
    def test_an_interrupted_restoration_leaves_an_ordinary_pause(
        self, store: MemoryArtifacts, end: BaseException
    ) -> None:
        catalogue = library(store, vectors=1)
        with pytest.raises(type(end)) as raised, pausing_for_restoration(store):
            raise end
        assert raised.value is end
        self.assert_paused_until_examined(catalogue, store)

    def test_the_end_of_a_restoration_ends_killed_ones_but_not_later_ones(self, store: MemoryArtifacts) -> None:
        catalogue = library(store)
        store.put("collector/restoring.KILLED", b"", hashlib.sha256(b"").hexdigest())
        with pausing_for_restoration(store):
            store.put("collector/restoring.LATER", b"", hashlib.sha256(b"").hexdigest())
        assert found(catalogue, store) == [("restoration-unfinished", "collector/restoring.LATER")]

    def assert_paused_until_examined(self, catalogue: Catalogue, store: Artifacts) -> None:
        assert found(catalogue, store) == []
        assert not may_collect(catalogue, store)
        allow_collection(store, catalogue.change_log.position(), instead_of=list_markers(store))
        assert may_collect(catalogue, store)


class TestHeartbeat:
    def beats(self, catalogue: Catalogue, store: Artifacts) -> Beats:
        return Beats(replace(memory_library(store), catalogue=catalogue))

    def test_the_marker_is_at_most_one_interval_behind_the_log(self, store: MemoryArtifacts) -> None:
        catalogue = memory_catalogue()
        beats = self.beats(catalogue, store)
        first = catalogue.change_log.position()
        register(catalogue)
        beats.seconds += INTERVAL_S - 1
        beats.tick()
        assert list_markers(store) == {marker(first)}
        beats.seconds += 1
        beats.tick()
        assert list_markers(store) == {marker(catalogue.change_log.position())}

    def test_the_last_beat_records_the_newest_change(self, store: MemoryArtifacts) -> None:
        catalogue = memory_catalogue()
        beats = self.beats(catalogue, store)
        register(catalogue)
        beats.last()
        assert list_markers(store) == {marker(catalogue.change_log.position())}

    def test_an_idle_library_detects_that_another_one_claimed_the_store(self, store: MemoryArtifacts) -> None:
        first, second = memory_catalogue(), memory_catalogue()
        beats = self.beats(first, store)
        store.put(register(first).object_key, DATA, SHA256)
        beats.last()
        update_markers(second, store)
        allow_collection(store, second.change_log.position(), instead_of=list_markers(store))
        assert may_collect(second, store)
        beats.seconds += INTERVAL_S
        beats.tick()
        assert has_marker(store, first.change_log.position().epoch)
        assert not may_collect(second, store)

    def test_an_idle_library_writes_no_markers(self) -> None:
        class Counting(MemoryArtifacts):
            written = 0

            def put(self, key: str, data: bytes, sha256: str) -> None:
                self.written += 1
                super().put(key, data, sha256)

        catalogue, store = memory_catalogue(), Counting()
        beats = self.beats(catalogue, store)
        for _ in range(10):
            beats.seconds += INTERVAL_S
            beats.tick()
        beats.last()
        assert store.written == 1

    def test_a_library_in_a_new_store_that_was_unavailable_at_first_may_collect(self, store: MemoryArtifacts) -> None:
        store.put(register(memory_catalogue()).object_key, DATA, SHA256)
        catalogue = library(MemoryArtifacts(), vectors=2)
        other = MemoryArtifacts()
        for record in catalogue.vectors.page(limit=9).records:
            other.put(record.object_key, DATA, SHA256)
        for there, allowed in ((other, True), (store, False)):
            self.beats(catalogue, there)
            assert may_collect(catalogue, there) is allowed

    def test_an_unavailable_store_is_logged_once_and_retried_soon(self) -> None:
        class Unreliable(MemoryArtifacts):
            attempts = 0
            available = True

            def put(self, key: str, data: bytes, sha256: str) -> None:
                self.attempts += 1
                if not self.available:
                    raise ArtifactsUnavailable("The store does not respond.", "Wait.")
                super().put(key, data, sha256)

        catalogue, store = memory_catalogue(), Unreliable()
        beats = self.beats(catalogue, store)
        register(catalogue)
        store.available = False
        with capture_logs() as logs:
            beats.seconds += INTERVAL_S
            for _ in range(3):
                beats.tick()
            assert store.attempts == 2
            beats.seconds += RETRY_S
            beats.tick()
            assert store.attempts == 3
        assert [entry["event"] for entry in logs] == ["heartbeat.store_unavailable"]
        store.available = True
        beats.seconds += RETRY_S
        beats.tick()
        assert list_markers(store) == {marker(catalogue.change_log.position())}
