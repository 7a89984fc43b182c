"""When snapshots of the task index are saved, by one process and by several that share the storage."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.indexes import fill
from tests.support.registrations import EMBEDDER
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.snapshots.folder import FolderSnapshots
from vlibrary.domain.changes import LogPosition
from vlibrary.upkeep.snapshot_writer import SnapshotSchedule, SnapshotWriter

SCHEDULE = SnapshotSchedule(changes=10, seconds=300.0)


class Process:
    """An index with its snapshot writer and a clock; loaded: position of the snapshot that it started from."""

    def __init__(self, snapshots: FolderSnapshots, loaded: LogPosition | None = None) -> None:
        self.seconds = 0.0
        self.index = FaissIndex(EMBEDDER)
        self.index.reset("epoch", replacing=self.index.position)
        self.writer = SnapshotWriter(self.index, snapshots, SCHEDULE, loaded=loaded, now=lambda: self.seconds)

    def tick(self, *, merged: bool = False) -> None:
        self.writer.save_if_due(merged=merged)


@pytest.fixture
def snapshots(tmp_path: Path) -> FolderSnapshots:
    return FolderSnapshots(tmp_path / "snapshots")


def saved(snapshots: FolderSnapshots) -> list[int]:
    """The sequence numbers of the snapshots, newest first."""
    return [snapshots.read_manifest(folder.name).seq for folder in snapshots.folders()]


def save_elsewhere(seq: int, snapshots: FolderSnapshots) -> None:
    """Save a snapshot as another process would."""
    other = Process(snapshots)
    fill(other.index, seq)
    other.index.save(snapshots)


class TestOneProcess:
    def test_a_snapshot_is_due_after_enough_changes(self, snapshots: FolderSnapshots) -> None:
        process = Process(snapshots)
        fill(process.index, 9)
        process.tick()
        assert saved(snapshots) == []
        fill(process.index, 1, after=9)
        process.tick()
        assert saved(snapshots) == [10]

    def test_a_snapshot_is_due_when_a_change_is_unsaved_for_too_long(self, snapshots: FolderSnapshots) -> None:
        process = Process(snapshots)
        process.seconds = 1_000.0  # without changes, no time passes
        process.tick()
        fill(process.index, 1)
        process.seconds += 300.0
        process.tick()
        assert saved(snapshots) == []
        process.seconds += 0.1
        process.tick()
        assert saved(snapshots) == [1]

    def test_a_snapshot_is_due_after_a_merge(self, snapshots: FolderSnapshots) -> None:
        process = Process(snapshots)
        fill(process.index, 1)
        process.tick(merged=True)
        assert saved(snapshots) == [1]

    def test_few_changes_are_saved_at_the_end(self, snapshots: FolderSnapshots) -> None:
        process = Process(snapshots)
        fill(process.index, 3)
        process.tick()
        assert saved(snapshots) == []
        process.writer.save_if_changed()
        assert saved(snapshots) == [3]

    @pytest.mark.parametrize("loaded", [3, 27], ids=["as far", "further"])
    def test_an_unchanged_index_is_not_saved_again(self, snapshots: FolderSnapshots, loaded: int) -> None:
        process = Process(snapshots, LogPosition("epoch", loaded))
        fill(process.index, 3)
        for process.seconds in (0.0, 1_000.0):
            process.tick()
        process.writer.save_if_changed()
        assert saved(snapshots) == []

    def test_a_failure_is_logged_and_retried(self, tmp_path: Path) -> None:
        (tmp_path / "snapshots").write_bytes(b"in the way")
        snapshots = FolderSnapshots(tmp_path / "snapshots")
        process = Process(snapshots)
        fill(process.index, 20)
        with capture_logs() as logs:
            process.tick()
        assert [entry["event"] for entry in logs] == ["index.snapshot_failed"]
        (tmp_path / "snapshots").unlink()
        process.tick()
        assert saved(snapshots) == [20]


class TestSharedStorage:
    @pytest.mark.parametrize(
        ("theirs", "mine", "loaded", "kept"),
        [
            (20, 20, LogPosition("epoch", 1), [20]),
            (20, 27, LogPosition("epoch", 1), [20]),
            (27, 20, LogPosition("epoch", 1), [27]),
            (20, 20, LogPosition("older", 99), [20]),
            (20, 31, LogPosition("epoch", 1), [31, 20]),
            (1, 2, LogPosition("epoch", 1), [2, 1]),
        ],
        ids=["as far", "nearly as far", "further", "in a new epoch", "not nearly as far", "no further than the loaded"],
    )
    @pytest.mark.parametrize("at_the_end", [False, True])
    def test_a_snapshot_of_another_process_is_reused(
        self, snapshots: FolderSnapshots, theirs: int, mine: int, loaded: LogPosition, kept: list[int], at_the_end: bool
    ) -> None:
        process = Process(snapshots, loaded)
        save_elsewhere(theirs, snapshots)
        fill(process.index, mine)
        if at_the_end:
            process.writer.save_if_changed()
        else:
            process.seconds = 301.0  # so that any change is due
            process.tick()
        assert saved(snapshots) == kept

    def test_snapshots_continue_when_the_other_process_has_ended(self, snapshots: FolderSnapshots) -> None:
        process = Process(snapshots, LogPosition("epoch", 1))
        save_elsewhere(20, snapshots)
        fill(process.index, 20)
        process.tick()
        assert saved(snapshots) == [20]
        fill(process.index, 1, after=20)
        process.seconds += 301.0
        process.tick()
        assert saved(snapshots)[0] == 21

    def test_a_snapshot_that_could_not_be_loaded_is_replaced(self, snapshots: FolderSnapshots) -> None:
        save_elsewhere(20, snapshots)
        for path in snapshots.folders()[0].glob("*.flat"):
            path.write_bytes(b"damaged")
        index = FaissIndex(EMBEDDER)
        assert index.load(snapshots, "epoch") is None
        process = Process(snapshots, loaded=None)
        fill(process.index, 20)
        process.tick()
        assert index.load(snapshots, "epoch") == LogPosition("epoch", 20)

    @pytest.mark.parametrize("newest", [20, 25])
    def test_a_newer_snapshot_that_could_not_be_loaded_is_replaced(
        self, snapshots: FolderSnapshots, newest: int
    ) -> None:
        save_elsewhere(10, snapshots)
        save_elsewhere(20, snapshots)
        for path in snapshots.folders()[0].glob("*.flat"):
            path.unlink()
            path.write_bytes(b"damaged")
        index = FaissIndex(EMBEDDER)
        assert index.load(snapshots, "epoch") == LogPosition("epoch", 10)
        process = Process(snapshots, LogPosition("epoch", 10))
        fill(process.index, newest)
        process.tick()
        assert index.load(snapshots, "epoch") == LogPosition("epoch", newest)

    def test_a_merged_index_is_saved_even_if_another_process_has(self, snapshots: FolderSnapshots) -> None:
        process = Process(snapshots, LogPosition("epoch", 1))
        save_elsewhere(20, snapshots)
        fill(process.index, 20)
        process.tick(merged=True)
        assert saved(snapshots) == [20, 20]


def test_jitter_makes_schedules_earlier_but_never_later() -> None:
    schedules = [SnapshotSchedule().with_jitter() for _ in range(50)]
    assert all(240 <= schedule.seconds <= 300 for schedule in schedules)
    assert all(8_000 <= schedule.changes <= 10_000 for schedule in schedules)
    assert len({schedule.changes for schedule in schedules}) > 10
    assert SnapshotSchedule(changes=1).with_jitter().changes == 1
