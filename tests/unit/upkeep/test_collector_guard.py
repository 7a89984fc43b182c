"""Who may collect: one library a store, no restoration half-way, and a mark that follows the log."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.library import memory_library
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.catalogue import MemoryCatalogue
from tests.support.registrations import register
from tests.support.upkeep import DATA, SHA256
from vlibrary.domain.errors import ArtifactsUnavailable, CollectorPaused
from vlibrary.domain.ports import Artifacts, Catalogue, Position, StoredObject
from vlibrary.upkeep.collector_guard import (
    begin,
    check_cleared,
    clear,
    has_mark,
    marks,
    note_progress,
    restoring,
)
from vlibrary.upkeep.findings import Finding
from vlibrary.upkeep.heartbeat import MARK_S, RETRY_S, LookAfter
from vlibrary.upkeep.store_ownership import examine_marks


@pytest.fixture
def store() -> MemoryArtifacts:
    return MemoryArtifacts()


def library(store: Artifacts, *, vectors: int = 0) -> MemoryCatalogue:
    """A catalogue whose service has started on the store, and has registered something since."""
    catalogue = MemoryCatalogue()
    begin(catalogue, store)
    for _ in range(vectors):
        store.put(register(catalogue).object_key, DATA, SHA256)
    return catalogue


def may_collect(catalogue: Catalogue, store: Artifacts) -> bool:
    try:
        check_cleared(catalogue, store)
    except CollectorPaused:
        return False
    return True


def found(catalogue: Catalogue, store: Artifacts) -> list[tuple[str, str]]:
    steps = examine_marks(catalogue, store)
    return [(step.kind, step.subject) for step in steps if isinstance(step, Finding)]


def mark(position: Position) -> str:
    return f"collector/{position.epoch}.{position.seq}.{position.mark}"


class TestOneLibraryAStore:
    def test_two_libraries_that_met_in_an_empty_store_both_stop(self, store: MemoryArtifacts) -> None:
        first, second = library(store), MemoryCatalogue()
        note_progress(store, second.position())  # it had looked before the first one's mark came
        for catalogue in (first, second):
            register(catalogue)
            assert not may_collect(catalogue, store)

    def test_a_library_that_meets_the_store_of_another_one_stops_both(self, store: MemoryArtifacts) -> None:
        first = library(store, vectors=1)
        assert may_collect(first, store)
        second = library(store, vectors=1)
        for catalogue, other in ((first, second), (second, first)):
            assert not may_collect(catalogue, store)
            assert found(catalogue, store) == [("other-library", other.position().epoch)]

    def test_an_empty_library_does_not_clear_itself_beside_anothers_mark(self, store: MemoryArtifacts) -> None:
        library(store)
        second = library(store)
        assert not may_collect(second, store)
        assert mark(second.position()) not in marks(store)

    def test_an_uncleared_library_is_no_reason_to_clear_it_later(self, store: MemoryArtifacts) -> None:
        store.put(register(MemoryCatalogue()).object_key, DATA, SHA256)
        late = library(store, vectors=1)
        begin(late, store)
        assert not may_collect(late, store)
        assert found(late, store) == []
        clear(store, late.position(), instead_of=marks(store))
        assert marks(store) == {mark(late.position())}

    def test_whoever_takes_a_store_over_is_stopped_by_the_other_one_if_that_still_lives(
        self, store: MemoryArtifacts
    ) -> None:
        first, second = library(store, vectors=1), library(store, vectors=1)
        clear(store, second.position(), instead_of=marks(store))
        assert may_collect(second, store)
        assert not may_collect(first, store)
        begin(first, store)
        assert not may_collect(second, store)
        assert found(second, store) == [("other-library", first.position().epoch)]

    def test_a_librarys_own_former_epochs_are_no_strangers(self, store: MemoryArtifacts) -> None:
        catalogue = library(store, vectors=2)
        for number in range(1_100):  # further back than is read at once
            catalogue.note("collector.remove", str(number), {}, actor="tester")
        for _ in range(2):
            catalogue.renew_epoch()
            begin(catalogue, store)
            assert not may_collect(catalogue, store)
        assert len(marks(store)) == 3
        assert found(catalogue, store) == []

    def test_what_only_one_of_two_listings_tells_is_not_told(self, store: MemoryArtifacts) -> None:
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
    def test_a_pause_that_a_restoration_makes_is_ended_by_its_end_alone(self, store: MemoryArtifacts) -> None:
        catalogue = library(store, vectors=1)
        before = marks(store)
        with restoring(store):
            clear(store, catalogue.position(), instead_of=before)
            assert not may_collect(catalogue, store)
            assert [kind for kind, _ in found(catalogue, store)] == ["restoration-unfinished"]
        self.assert_paused_until_examined(catalogue, store)

    @pytest.mark.parametrize("end", [KeyboardInterrupt(), GeneratorExit(), ArtifactsUnavailable("Away.", "Wait.")])
    def test_one_that_is_broken_off_leaves_an_ordinary_pause(self, store: MemoryArtifacts, end: BaseException) -> None:
        catalogue = library(store, vectors=1)
        with pytest.raises(type(end)) as raised, restoring(store):
            raise end
        assert raised.value is end
        self.assert_paused_until_examined(catalogue, store)

    def test_the_one_that_ends_ends_those_that_were_killed_and_none_that_began_since(
        self, store: MemoryArtifacts
    ) -> None:
        catalogue = library(store)
        store.put("collector/restoring.KILLED", b"", hashlib.sha256(b"").hexdigest())
        with restoring(store):
            store.put("collector/restoring.LATER", b"", hashlib.sha256(b"").hexdigest())
        assert found(catalogue, store) == [("restoration-unfinished", "collector/restoring.LATER")]

    def assert_paused_until_examined(self, catalogue: Catalogue, store: Artifacts) -> None:
        assert found(catalogue, store) == []
        assert not may_collect(catalogue, store)
        clear(store, catalogue.position(), instead_of=marks(store))
        assert may_collect(catalogue, store)


class TestLookingAfter:
    @pytest.fixture(autouse=True)
    def clock(self) -> None:
        self.seconds = 100.0

    def look_after(self, catalogue: Catalogue, store: Artifacts) -> LookAfter:
        return LookAfter(replace(memory_library(store), catalogue=catalogue), now=lambda: self.seconds)

    def test_the_mark_is_at_most_a_minute_behind_the_log(self, store: MemoryArtifacts) -> None:
        catalogue = MemoryCatalogue()
        care = self.look_after(catalogue, store)
        first = catalogue.position()
        register(catalogue)
        self.seconds += MARK_S - 1
        care.look()
        assert marks(store) == {mark(first)}
        self.seconds += 1
        care.look()
        assert marks(store) == {mark(catalogue.position())}

    def test_the_mark_names_what_came_last_when_the_service_ends(self, store: MemoryArtifacts) -> None:
        catalogue = MemoryCatalogue()
        care = self.look_after(catalogue, store)
        register(catalogue)
        care.end()
        assert marks(store) == {mark(catalogue.position())}

    def test_a_library_at_rest_notices_that_somebody_took_the_store_over(self, store: MemoryArtifacts) -> None:
        first, second = MemoryCatalogue(), MemoryCatalogue()
        care = self.look_after(first, store)
        store.put(register(first).object_key, DATA, SHA256)
        care.end()
        begin(second, store)
        clear(store, second.position(), instead_of=marks(store))
        assert may_collect(second, store)
        self.seconds += MARK_S
        care.look()
        assert has_mark(store, first.position().epoch)
        assert not may_collect(second, store)

    def test_a_library_at_rest_writes_no_marks(self) -> None:
        class Counting(MemoryArtifacts):
            written = 0

            def put(self, key: str, data: bytes, sha256: str) -> None:
                self.written += 1
                super().put(key, data, sha256)

        catalogue, store = MemoryCatalogue(), Counting()
        care = self.look_after(catalogue, store)
        for _ in range(10):
            self.seconds += MARK_S
            care.look()
        care.end()
        assert store.written == 1

    def test_a_library_that_was_new_when_its_store_was_away_is_cleared_when_it_comes_back(
        self, store: MemoryArtifacts
    ) -> None:
        store.put(register(MemoryCatalogue()).object_key, DATA, SHA256)
        catalogue = library(MemoryArtifacts(), vectors=2)
        other = MemoryArtifacts()
        for record in catalogue.page(limit=9).records:
            other.put(record.object_key, DATA, SHA256)
        for there, cleared in ((other, True), (store, False)):
            self.look_after(catalogue, there)
            assert may_collect(catalogue, there) is cleared

    def test_a_store_that_is_away_is_asked_again_soon_and_the_trouble_is_told(self) -> None:
        class Away(MemoryArtifacts):
            asked = 0
            away = False

            def put(self, key: str, data: bytes, sha256: str) -> None:
                self.asked += 1
                if self.away:
                    raise ArtifactsUnavailable("It is away.", "Wait.")
                super().put(key, data, sha256)

        catalogue, store = MemoryCatalogue(), Away()
        care = self.look_after(catalogue, store)
        register(catalogue)
        store.away = True
        self.seconds += MARK_S
        told = [care.trouble]
        for _ in range(3):
            care.look()
        assert store.asked == 2
        told.append(care.trouble)
        store.away = False
        self.seconds += RETRY_S
        care.look()
        told.append(care.trouble)
        assert [trouble is None for trouble in told] == [True, False, True]
        assert marks(store) == {mark(catalogue.position())}
