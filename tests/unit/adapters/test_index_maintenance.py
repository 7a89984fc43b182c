"""The thread behind the task index, and what a restart goes on from."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from tests.support.memory.catalogue import MemoryCatalogue
from tests.support.registrations import EMBEDDER, deleted, embedding, published, register
from vlibrary.adapters.index.build import IndexLimits
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.index.maintenance import Rhythm, Upkeep
from vlibrary.adapters.snapshots.folder import FolderSnapshots, read_manifest
from vlibrary.domain.ports import Position
from vlibrary.library.reindex import follow

TINY = IndexLimits(exact=40, merged=16)
BRISK = Rhythm(look_s=0.01, after_failure_s=0.01, snapshot_changes=10, snapshot_s=3_600)


@pytest.fixture
def snapshots(tmp_path: Path) -> FolderSnapshots:
    return FolderSnapshots(tmp_path / "snapshots")


@pytest.fixture
def index() -> FaissIndex:
    empty = FaissIndex(EMBEDDER, TINY)
    empty.reset("epoch", replacing=empty.position)
    return empty


def fill(index: FaissIndex, count: int, *, after: int = 0) -> None:
    rng = np.random.default_rng(after)
    index.apply([published(after + n, f"v{after + n}", embedding(rng)) for n in range(1, count + 1)])


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestUpkeep:
    def test_it_merges_and_keeps_what_it_merged(self, index: FaissIndex, snapshots: FolderSnapshots) -> None:
        upkeep = Upkeep(index, snapshots, rhythm=BRISK)
        upkeep.start()
        fill(index, 100)
        eventually(lambda: any(read_manifest(folder).seq == 100 for folder in snapshots.folders()))
        upkeep.close()
        main = index.state.models["m"].main
        assert main is not None
        assert main.rows == 100

    def test_it_follows_the_catalogue_without_any_search(self, index: FaissIndex, snapshots: FolderSnapshots) -> None:
        catalogue = MemoryCatalogue()
        upkeep = Upkeep(index, snapshots, follow=lambda: follow(catalogue, index), rhythm=BRISK)
        upkeep.start()
        register(catalogue)
        eventually(lambda: index.position == catalogue.position())
        register(catalogue)
        eventually(lambda: index.position == catalogue.position())
        upkeep.close()

    def test_what_is_to_be_done_at_the_end_is_done_once(self, index: FaissIndex) -> None:
        ended: list[str] = []
        upkeep = Upkeep(index, None, end=lambda: ended.append("once"), rhythm=BRISK)
        upkeep.start()
        time.sleep(0.05)
        assert ended == []
        upkeep.close()
        assert ended == ["once"]

    def test_the_end_does_not_wait_for_a_store_that_does_not_answer(
        self, index: FaissIndex, snapshots: FolderSnapshots
    ) -> None:
        ended: list[str] = []
        asked, answers = threading.Event(), threading.Event()

        def ask() -> None:
            asked.set()
            answers.wait(30)

        upkeep = Upkeep(index, snapshots, follow=ask, end=lambda: ended.append("once"), rhythm=BRISK)
        upkeep.start()
        fill(index, 3)
        assert asked.wait(10)
        started = time.monotonic()
        upkeep.close(wait_s=0.05)
        assert time.monotonic() - started < 5
        assert (ended, snapshots.folders()) == ([], [])
        answers.set()

    def test_few_changes_wait_for_the_end(self, index: FaissIndex, snapshots: FolderSnapshots) -> None:
        upkeep = Upkeep(index, snapshots, rhythm=BRISK)
        upkeep.start()
        fill(index, 3)
        time.sleep(0.1)
        assert snapshots.folders() == []
        upkeep.close()
        assert [read_manifest(folder).seq for folder in snapshots.folders()] == [3]

    def test_a_change_does_not_wait_too_long(self, index: FaissIndex, snapshots: FolderSnapshots) -> None:
        upkeep = Upkeep(index, snapshots, rhythm=replace(BRISK, snapshot_s=0.05))
        upkeep.start()
        fill(index, 3)
        eventually(lambda: len(snapshots.folders()) == 1)
        upkeep.close()

    @pytest.mark.parametrize("kept", [3, 27], ids=["as far", "further"])
    def test_nothing_new_is_not_kept_again(self, index: FaissIndex, snapshots: FolderSnapshots, kept: int) -> None:
        fill(index, 3)
        upkeep = Upkeep(index, snapshots, kept=Position("epoch", kept), rhythm=BRISK)
        upkeep.start()
        upkeep.close()
        assert snapshots.folders() == []

    def test_a_place_that_fails_is_logged_and_tried_again(self, index: FaissIndex, tmp_path: Path) -> None:
        (tmp_path / "snapshots").write_bytes(b"in the way")
        snapshots = FolderSnapshots(tmp_path / "snapshots")
        upkeep = Upkeep(index, snapshots, rhythm=BRISK)
        with capture_logs() as logs:
            upkeep.start()
            fill(index, 20)
            eventually(lambda: any(entry["event"] == "index.snapshot_failed" for entry in logs))
            (tmp_path / "snapshots").unlink()
            eventually(lambda: len(snapshots.folders()) > 0)
            upkeep.close()


class TestShared:
    """Another process keeps snapshots of its own index in the same place."""

    @pytest.fixture
    def large(self) -> FaissIndex:
        """One that never merges."""
        large = FaissIndex(EMBEDDER)
        large.reset("epoch", replacing=large.position)
        return large

    def keep(self, seq: int, snapshots: FolderSnapshots) -> None:
        other = FaissIndex(EMBEDDER)
        other.reset("epoch", replacing=other.position)
        fill(other, seq)
        other.save(snapshots)

    @pytest.mark.parametrize(
        ("theirs", "mine", "loaded", "kept"),
        [
            (20, 20, Position("epoch", 1), [20]),
            (20, 27, Position("epoch", 1), [20]),
            (27, 20, Position("epoch", 1), [27]),
            (20, 20, Position("older", 99), [20]),
            (20, 31, Position("epoch", 1), [31, 20]),
            (1, 2, Position("epoch", 1), [2, 1]),
        ],
        ids=["as far", "nearly as far", "further", "in a new epoch", "not nearly as far", "no further than the loaded"],
    )
    def test_what_another_has_kept_is_not_kept_again(
        self, large: FaissIndex, snapshots: FolderSnapshots, theirs: int, mine: int, loaded: Position, kept: list[int]
    ) -> None:
        upkeep = Upkeep(large, snapshots, kept=loaded, rhythm=BRISK)
        self.keep(theirs, snapshots)
        fill(large, mine)
        upkeep.start()
        upkeep.close()
        assert [read_manifest(folder).seq for folder in snapshots.folders()] == kept

    def test_it_goes_on_when_the_other_has_ended(self, large: FaissIndex, snapshots: FolderSnapshots) -> None:
        upkeep = Upkeep(large, snapshots, kept=Position("epoch", 1), rhythm=replace(BRISK, snapshot_s=0.05))
        self.keep(20, snapshots)
        fill(large, 20)
        upkeep.start()
        time.sleep(0.1)
        assert len(snapshots.folders()) == 1
        fill(large, 1, after=20)
        eventually(lambda: snapshots.newest_position("epoch", EMBEDDER.fingerprint) == Position("epoch", 21))
        upkeep.close()

    def test_who_began_with_nothing_does_not_trust_what_lies_there(
        self, large: FaissIndex, snapshots: FolderSnapshots
    ) -> None:
        self.keep(20, snapshots)
        for path in snapshots.folders()[0].glob("*.flat"):
            path.write_bytes(b"damaged")
        assert large.load(snapshots, "epoch") is None
        fill(large, 20)
        upkeep = Upkeep(large, snapshots, kept=None, rhythm=BRISK)
        upkeep.start()
        upkeep.close()
        assert FaissIndex(EMBEDDER).load(snapshots, "epoch") == Position("epoch", 20)

    def test_what_could_not_be_loaded_is_kept_anew(self, large: FaissIndex, snapshots: FolderSnapshots) -> None:
        self.keep(10, snapshots)
        self.keep(20, snapshots)
        for path in snapshots.folders()[0].glob("*.flat"):
            path.unlink()
            path.write_bytes(b"damaged")
        loaded = large.load(snapshots, "epoch")
        assert loaded == Position("epoch", 10)
        upkeep = Upkeep(large, snapshots, kept=loaded, rhythm=BRISK)
        fill(large, 20)
        upkeep.start()
        upkeep.close()
        assert FaissIndex(EMBEDDER).load(snapshots, "epoch") == Position("epoch", 20)

    def test_what_was_merged_is_kept_all_the_same(self, index: FaissIndex, snapshots: FolderSnapshots) -> None:
        self.keep(100, snapshots)
        fill(index, 100)
        upkeep = Upkeep(index, snapshots, kept=Position("epoch", 1), rhythm=BRISK)
        upkeep.start()
        eventually(lambda: len(snapshots.folders()) == 2)
        upkeep.close()

    def test_not_all_are_due_at_once_and_none_too_late(self) -> None:
        rhythms = [Rhythm().hastened() for _ in range(50)]
        assert all(240 <= rhythm.snapshot_s <= 300 for rhythm in rhythms)
        assert all(8_000 <= rhythm.snapshot_changes <= 10_000 for rhythm in rhythms)
        assert len({rhythm.snapshot_changes for rhythm in rhythms}) > 10
        assert replace(BRISK, snapshot_changes=1).hastened().snapshot_changes == 1


class TestRestart:
    def test_a_restart_goes_on_from_the_snapshot(self, index: FaissIndex, snapshots: FolderSnapshots) -> None:
        fill(index, 100)
        index.compact()
        fill(index, 5, after=100)
        index.apply([deleted(106, "v3"), deleted(107, "v104")])
        assert index.save(snapshots) == Position("epoch", 107)
        again = FaissIndex(EMBEDDER, TINY)
        assert again.load(snapshots, "epoch") == again.position == Position("epoch", 107)
        query = embedding(np.random.default_rng(9))
        assert again.search(query, model="m", k=500) == index.search(query, model="m", k=500)
        fill(again, 50, after=107)
        while again.compact():
            pass
        assert len(again.search(query, model="m", k=500)) == 153

    @pytest.mark.parametrize("other", ["epoch", "embedder", "flipped bit"])
    def test_what_does_not_fit_is_left(self, index: FaissIndex, snapshots: FolderSnapshots, other: str) -> None:
        fill(index, 10)
        index.save(snapshots)
        spec = EMBEDDER if other != "embedder" else replace(EMBEDDER, fingerprint="f" * 64)
        if other == "flipped bit":
            (path,) = snapshots.folders()[0].glob("*.flat")
            data = bytearray(path.read_bytes())
            data[-1] ^= 4
            path.write_bytes(data)
        again = FaissIndex(spec, TINY)
        assert again.load(snapshots, "another" if other == "epoch" else "epoch") is None
        assert again.position is None

    def test_a_snapshot_of_rows_of_another_length_is_left(self, index: FaissIndex, snapshots: FolderSnapshots) -> None:
        fill(index, 10)
        index.save(snapshots)
        again = FaissIndex(replace(EMBEDDER, text_size=EMBEDDER.text_size + 1), TINY)
        with capture_logs() as logs:
            assert again.load(snapshots, "epoch") is None
        assert "10 rows of 11 numbers" in logs[0]["reason"]

    def test_a_merged_segment_is_written_once(self, index: FaissIndex, snapshots: FolderSnapshots) -> None:
        fill(index, 100)
        index.compact()
        index.save(snapshots)
        fill(index, 3, after=100)
        index.save(snapshots)
        main = index.state.models["m"].main
        assert main is not None
        newer, older = snapshots.folders()
        assert (newer / f"{main.name}.flat").samefile(older / f"{main.name}.flat")

    def test_an_index_without_a_position_is_not_kept(self, snapshots: FolderSnapshots) -> None:
        assert FaissIndex(EMBEDDER).save(snapshots) is None
        assert snapshots.folders() == []
