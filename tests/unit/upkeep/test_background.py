"""Background tasks of a service, one tick at a time."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.library import memory_library
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.catalogue import MemoryChangeLog, MemoryTables, memory_catalogue
from tests.support.registrations import EMBEDDER, embedding, key, register
from vlibrary.adapters.index.build import IndexLimits
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.snapshots.folder import FolderSnapshots
from vlibrary.domain.changes import LogPosition
from vlibrary.upkeep import background
from vlibrary.upkeep.background import BackgroundTasks
from vlibrary.upkeep.collector_guard import list_markers
from vlibrary.upkeep.heartbeat import Heartbeat
from vlibrary.upkeep.snapshot_writer import SnapshotSchedule, SnapshotWriter


class BlockingChangeLog(MemoryChangeLog):
    """A change log that does not respond while it is blocked."""

    def __init__(self, tables: MemoryTables) -> None:
        super().__init__(tables)
        self.called, self.unblocked = threading.Event(), threading.Event()
        self.unblocked.set()

    def position(self) -> LogPosition:
        self.called.set()
        self.unblocked.wait(30)
        return super().position()


class Service:
    """Background tasks on an index with tiny limits, so that it merges early."""

    def __init__(self, folder: Path) -> None:
        self.catalogue, self.artifacts = memory_catalogue(change_log=self._blocking_change_log), MemoryArtifacts()
        self.index = FaissIndex(EMBEDDER, IndexLimits(exact=40, merged=16))
        self.snapshots = FolderSnapshots(folder)
        library = replace(memory_library(self.artifacts), catalogue=self.catalogue, index=self.index)
        writer = SnapshotWriter(self.index, self.snapshots, SnapshotSchedule(changes=10_000), now=lambda: 0.0)
        heartbeat = Heartbeat(library, now=lambda: 0.0)
        self.tasks = BackgroundTasks(library, self.index, writer, heartbeat)

    def _blocking_change_log(self, tables: MemoryTables) -> BlockingChangeLog:
        self.change_log = BlockingChangeLog(tables)
        return self.change_log

    def register(self, count: int) -> None:
        rng = np.random.default_rng(0)
        for _ in range(count):
            register(self.catalogue, keys=(key(embedding(rng)),), embedder=EMBEDDER.fingerprint)

    def saved(self) -> list[int]:
        return [self.snapshots.read_manifest(folder.name).seq for folder in self.snapshots.folders()]


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr(background, "INTERVAL_S", 0.01)
    return Service(tmp_path / "snapshots")


def test_a_tick_replays_the_change_log(service: Service) -> None:
    service.register(1)
    service.tasks.tick()
    assert service.index.position == service.catalogue.change_log.position()
    service.register(1)
    service.tasks.tick()
    assert service.index.position == service.catalogue.change_log.position()


def test_a_tick_sends_the_heartbeat(service: Service) -> None:
    service.tasks.tick()
    assert [marker.split(".")[1] for marker in list_markers(service.artifacts)] == ["0"]


def test_a_tick_merges_segments_and_saves_the_result(service: Service) -> None:
    service.register(100)
    service.tasks.tick()
    (model,) = service.index.state.models.values()
    main = model.main
    assert main is not None
    assert main.row_count == 100
    assert service.saved() == [100]


def test_a_tick_saves_no_snapshot_before_one_is_due(service: Service) -> None:
    service.register(3)
    service.tasks.tick()
    assert service.index.position is not None
    assert service.index.position.seq == 3
    assert service.saved() == []


def test_close_saves_the_last_changes_and_sends_the_last_heartbeat(service: Service) -> None:
    service.tasks.tick()
    service.register(3)
    service.tasks.tick()
    service.tasks.close()
    assert service.saved() == [3]
    assert [marker.split(".")[1] for marker in list_markers(service.artifacts)] == ["3"]


def test_the_thread_ticks_until_it_is_closed(service: Service) -> None:
    service.tasks.start()
    assert service.change_log.called.wait(10)
    service.tasks.close()
    assert len(list_markers(service.artifacts)) == 1


def test_close_does_not_wait_for_a_store_that_does_not_respond(service: Service) -> None:
    service.register(3)
    service.change_log.called.clear()
    service.change_log.unblocked.clear()
    service.tasks.start()
    assert service.change_log.called.wait(10)
    started = time.monotonic()
    service.tasks.close(wait_s=0.05)
    assert time.monotonic() - started < 5
    assert (list_markers(service.artifacts), service.saved()) == (frozenset(), [])
    service.change_log.unblocked.set()
