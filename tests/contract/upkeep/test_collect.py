"""Garbage collection on real stores, concurrent with registrations, and killed at every step."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.support.memory.worker import MemoryWorker
from tests.support.upkeep import DATA, SHA256, Beats, RealLibrary, drafted
from vlibrary.api.bootstrap import open_app
from vlibrary.config import Settings
from vlibrary.domain.errors import CollectorPaused, UploadExpired
from vlibrary.upkeep.collector import Rules
from vlibrary.upkeep.collector_guard import list_markers
from vlibrary.upkeep.heartbeat import INTERVAL_S

# Collects, and dies before or after it removes the nth object.
KILLED = """
import os, signal, sys
from pathlib import Path
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.upkeep.collector import Rules, collect

class Deadly(FolderArtifacts):
    left = int(sys.argv[3])
    def delete(self, key):
        if key.startswith("collector/"):
            return super().delete(key)
        self.left -= 1
        if self.left < 0 and sys.argv[4] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().delete(key)
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

catalogue = sql_catalogue(connect(sys.argv[1]))
list(collect(catalogue, Deadly(Path(sys.argv[2])), Rules(), actor="killed"))
"""


@pytest.fixture
def library(database_url: str, tmp_path: Path) -> Iterator[RealLibrary]:
    library = RealLibrary(database_url, tmp_path / "artifacts")
    yield library
    library.engine.dispose()


def test_only_garbage_is_removed(library: RealLibrary) -> None:
    active, deleted, purged = (library.publish() for _ in range(3))
    for record in (deleted, purged):
        library.catalogue.vectors.delete(record.id)
    library.catalogue.vectors.purge(purged.id)
    open_still, expired = library.store(), library.store(deadline=timedelta(0))
    library.age()
    young = library.store(deadline=timedelta(0))
    done = library.collect()
    assert (done.removed, done.young, done.released) == (2, 1, 2)
    kept = [active.object_key, deleted.object_key, open_still.object_key, young.object_key]
    assert library.keys() == sorted(kept)
    assert library.catalogue.registrations.publish(open_still, drafted(open_still)).version == 4
    with pytest.raises(UploadExpired):
        library.catalogue.registrations.publish(expired, drafted(expired))


def test_a_restored_database_still_finds_objects_purged_since(library: RealLibrary) -> None:
    record = library.publish()
    library.age()
    library.catalogue.vectors.delete(record.id)
    library.catalogue.vectors.purge(record.id)
    assert library.collect().removed == 0
    assert library.artifacts.get(record.object_key, SHA256) == DATA
    library.age()
    assert library.collect().removed == 1


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("removed", [0, 3])
def test_a_killed_collector_loses_nothing_and_the_next_one_finishes(
    library: RealLibrary, removed: int, moment: str
) -> None:
    records = [library.publish() for _ in range(3)]
    for _ in range(5):
        library.store(deadline=timedelta(0))
    library.age()
    arguments = [library.engine.url.render_as_string(hide_password=False), str(library.folder), str(removed), moment]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(library.keys()) == 3 + 5 - removed - (moment == "after")
    library.collect()
    assert library.keys() == sorted(record.object_key for record in records)
    assert all(library.artifacts.get(record.object_key, SHA256) == DATA for record in records)
    log = [entry for entry in library.catalogue.audit_log.read(0, 100) if entry.action == "collector.remove"]
    assert len({key for entry in log for key in entry.detail["objects"]}) == 5
    assert library.collect(Rules(dry_run=True)).removed == 0


def test_an_earlier_state_of_the_database_pauses_collection(new_sqlite: Callable[[], str], tmp_path: Path) -> None:
    """The database files are restored from a copy; the objects registered since then are kept."""
    url = new_sqlite()
    library = RealLibrary(url, tmp_path / "artifacts")
    library.publish()
    beats = Beats(library.library)
    file, saved = Path(url.removeprefix("sqlite:///")), tmp_path / "saved"
    library.engine.dispose()
    shutil.copy(file, saved)
    library.publish()
    beats.seconds += INTERVAL_S
    beats.tick()
    assert library.collect(Rules(dry_run=True)).seen == 2
    library.engine.dispose()
    shutil.copy(saved, file)
    again = RealLibrary(url, tmp_path / "artifacts")
    again.age()
    with pytest.raises(CollectorPaused):
        again.collect()
    assert len(again.keys()) == 2
    again.engine.dispose()


def test_a_stopped_service_has_recorded_its_last_change(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_database, tmp_path / "catalogue.db")
    monkeypatch.setenv("VLIBRARY_DATA_DIR", str(tmp_path))
    library = RealLibrary(f"sqlite:///{tmp_path / 'catalogue.db'}", tmp_path / "artifacts")
    with TestClient(open_app(Settings(), lambda artifacts, *_: MemoryWorker(artifacts))):
        library.publish()
        assert {mark.split(".")[1] for mark in list_markers(library.artifacts)} == {"0"}
    assert {mark.split(".")[1] for mark in list_markers(library.artifacts)} == {"1"}
    library.engine.dispose()
