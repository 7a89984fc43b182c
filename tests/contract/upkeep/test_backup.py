"""Backup and restoration on either database, interrupted and killed at any step."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event

from tests.contract.conftest import DATABASES
from tests.support.backups import Place, backup_in
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.domain.changes import LogPosition
from vlibrary.domain.errors import CollectorPaused, NotEmpty, VectorPurged
from vlibrary.domain.filters import Filter
from vlibrary.upkeep.backup import back_up, restore
from vlibrary.upkeep.collector import Rules
from vlibrary.upkeep.collector_guard import allow_collection, list_markers
from vlibrary.upkeep.examine import examine
from vlibrary.upkeep.findings import Finding

# Restores, and dies after this many objects, or after the last one in the middle of the transaction.
KILLED = """
import os, signal, sys
from pathlib import Path
from vlibrary.adapters.sql import backup_tables
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.backup.folder import BackupFolder
from vlibrary.adapters.sql.backup_tables import SqlTables
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.upkeep.backup import restore
from vlibrary.upkeep.stores import Stores

backup_tables.renew_epoch = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
engine = connect(sys.argv[1])
stores = Stores(sql_catalogue(engine), FolderArtifacts(Path(sys.argv[2])), SqlTables(engine))
for step in restore(stores, BackupFolder(Path(sys.argv[3]), FolderArtifacts), overwrite=True, actor="killed"):
    if step.done == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(params=DATABASES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    place = Place(request.getfixturevalue(f"new_{request.param}")(), tmp_path / "source")
    place.fill()
    yield place
    place.engine.dispose()


@pytest.fixture(params=DATABASES)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty library with its own database."""
    place = Place(request.getfixturevalue(f"new_{request.param}")(), tmp_path / "target")
    yield place
    place.engine.dispose()


def test_a_library_is_restored_completely_on_either_database(source: Place, target: Place, tmp_path: Path) -> None:
    copied = source.back_up(tmp_path / "backup")
    assert (copied.copied, copied.lost) == (3, ())
    assert target.restore(tmp_path / "backup").copied == 3
    assert target.content() == source.content()
    assert target.catalogue.change_log.position().epoch != source.catalogue.change_log.position().epoch
    assert _found(target) == []
    for _ in range(5):
        target.upload()  # skip the ids that exist
    assert target.publish().version == 5  # versions and sequence numbers are never reused
    assert target.catalogue.change_log.position().seq == source.catalogue.change_log.position().seq + 1


def test_a_registration_during_the_dump_is_complete_or_absent(source: Place, target: Place, tmp_path: Path) -> None:
    before = source.content()
    came: list[str] = []

    @event.listens_for(source.engine, "before_cursor_execute")
    def publish(*arguments: object) -> None:
        """Runs after the dump has read the first table and before it reads the second."""
        if not came and "FROM changes" in str(arguments[2]):
            came.append("")  # set first, because publishing executes statements, too
            came[-1] = other.publish().id

    other = Place(source.engine.url.render_as_string(hide_password=False), source.folder)
    for _ in range(5):
        other.upload()  # skip the ids that exist
    source.back_up(tmp_path / "backup")
    event.remove(source.engine, "before_cursor_execute", publish)
    other.engine.dispose()
    assert len(came) == 1
    target.restore(tmp_path / "backup")
    assert target.content() == before
    assert _found(target) == []


def test_idempotency_keys_survive_a_restoration(source: Place, target: Place, tmp_path: Path) -> None:
    source.back_up(tmp_path / "backup")
    target.restore(tmp_path / "backup")
    repeat = target.upload()  # with the id, key and request of the first
    found = target.catalogue.registrations.reserve(repeat)
    assert found is not None
    assert found.id == repeat.vector_id
    for _ in range(2):
        target.upload()
    with pytest.raises(VectorPurged):
        target.catalogue.registrations.reserve(target.upload())


def test_collection_is_paused_after_a_restoration(source: Place, target: Place, tmp_path: Path) -> None:
    source.collect()
    target.collect()
    source.back_up(tmp_path / "backup")
    target.restore(tmp_path / "backup")
    with pytest.raises(CollectorPaused):
        target.collect()
    assert source.collect(Rules()).removed == 0


def test_a_library_with_content_is_replaced_only_on_request(source: Place, target: Place, tmp_path: Path) -> None:
    source.back_up(tmp_path / "backup")
    target.publish()
    before = target.content()
    with pytest.raises(NotEmpty):
        target.restore(tmp_path / "backup")
    assert target.content() == before
    target.restore(tmp_path / "backup", replace=True)
    assert target.content() == source.content()


def test_a_backup_is_a_snapshot_and_the_next_one_is_incremental(source: Place, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    steps = back_up(source.stores, backup_in(folder), actor="tester")
    next(steps)
    late = source.publish()
    list(steps)
    assert late.object_key not in [found.key for found in backup_in(folder).objects.list()]
    gone = source.catalogue.vectors.page(limit=1, cursor=source.catalogue.vectors.page(limit=1).next).records[0]
    source.catalogue.vectors.delete(gone.id)
    source.catalogue.vectors.purge(gone.id)
    again = source.back_up(folder)
    assert (again.copied, again.there) == (1, 2)
    kept = [record.object_key for record in source.catalogue.vectors.page(Filter(status=None), limit=10).records]
    assert [found.key for found in backup_in(folder).objects.list()] == sorted(kept)
    assert len(list(folder.glob("catalogue-*"))) == 1


def test_an_interrupted_backup_keeps_the_last_one_and_resumes(source: Place, target: Place, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    source.back_up(folder)
    before = source.content()
    for _ in range(3):
        source.publish()
    steps = back_up(source.stores, backup_in(folder), actor="tester")
    assert [next(steps).done for _ in range(6)][-1] == 5
    steps.close()
    target.restore(folder)
    assert target.content() == before
    assert source.back_up(folder).there >= 5  # the sixth may have been in progress
    target.restore(folder, replace=True)
    assert target.content() == source.content()


@pytest.mark.parametrize("copied", [1, 2, 4])
def test_a_killed_restoration_keeps_the_old_library_and_resumes(
    source: Place, target: Place, tmp_path: Path, copied: int
) -> None:
    source.back_up(tmp_path / "backup")
    target.publish()
    before = target.catalogue.change_log.position(), target.catalogue.vectors.page(limit=10)
    url = target.engine.url.render_as_string(hide_password=False)
    arguments = [url, str(target.folder), str(tmp_path / "backup"), str(copied)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert target.catalogue.change_log.position() == before[0]
    assert [record.id for record in target.catalogue.vectors.page(limit=10).records] == [
        one.id for one in before[1].records
    ]
    with pytest.raises(CollectorPaused):
        target.collect()
    done = target.restore(tmp_path / "backup", replace=True)
    assert done.there >= min(copied, 3)
    assert target.content() == source.content()
    with pytest.raises(CollectorPaused):
        target.collect()
    assert _found(target) == []
    allow_collection(
        target.artifacts, target.catalogue.change_log.position(), instead_of=list_markers(target.artifacts)
    )
    assert target.collect(Rules(dry_run=True)).removed == 0


class Dying(FolderArtifacts):
    """A store in which the process dies before or after the nth write or deletion of a collector marker."""

    def __init__(self, root: Path, last: int, moment: str) -> None:
        super().__init__(root)
        self._left = last
        self._moment = moment

    def put(self, key: str, data: bytes, sha256: str) -> None:
        self._step(key, lambda: super(Dying, self).put(key, data, sha256))

    def delete(self, key: str) -> None:
        self._step(key, lambda: super(Dying, self).delete(key))

    def _step(self, key: str, act: Callable[[], None]) -> None:
        self._left -= key.startswith("collector/")
        if self._left == 0 and self._moment == "before":
            raise KeyboardInterrupt
        act()
        if self._left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_restoration_killed_at_a_marker_ends_paused_when_rerun(
    source: Place, target: Place, tmp_path: Path, last: int, moment: str
) -> None:
    source.back_up(tmp_path / "backup")
    artifacts = Dying(target.folder, last, moment)
    steps = restore(
        replace(target.stores, artifacts=artifacts), backup_in(tmp_path / "backup"), overwrite=True, actor="killed"
    )
    with pytest.raises(KeyboardInterrupt):
        list(steps)
    ended = (last, moment) == (3, "after")
    begun = (last, moment) != (1, "before")
    assert [finding.kind for finding in _found(target)] == ["restoration-unfinished"] * (begun and not ended)
    target.restore(tmp_path / "backup", replace=True)
    with pytest.raises(CollectorPaused):
        target.collect()
    assert _found(target) == []
    allow_collection(
        target.artifacts, target.catalogue.change_log.position(), instead_of=list_markers(target.artifacts)
    )
    assert target.collect().removed == 0


def test_an_examination_does_not_end_the_pause_of_a_running_restoration(
    source: Place, target: Place, tmp_path: Path
) -> None:
    source.back_up(tmp_path / "backup")
    before = list_markers(target.artifacts)
    steps = restore(target.stores, backup_in(tmp_path / "backup"), overwrite=True, actor="tester")
    assert [next(steps).done for _ in range(3)] == [0, 1, 2]
    assert [finding.kind for finding in _found(target)] == ["restoration-unfinished"]
    allow_collection(
        target.artifacts, target.catalogue.change_log.position(), instead_of=before
    )  # of an examination that started before
    target.age()
    with pytest.raises(CollectorPaused):
        target.collect()
    list(steps)
    assert target.content() == source.content()
    assert _found(target) == []


def test_a_restored_library_knows_the_epochs_that_it_replaces(source: Place, target: Place, tmp_path: Path) -> None:
    own = [source.catalogue.change_log.position(), source.catalogue.change_log.renew_epoch()]
    own += [target.catalogue.change_log.position(), target.catalogue.change_log.renew_epoch()]
    source.back_up(tmp_path / "backup")
    target.restore(tmp_path / "backup", replace=True)
    own.append(target.catalogue.change_log.position())
    target.restore(tmp_path / "backup", replace=True)
    for position in own:
        allow_collection(target.artifacts, position, instead_of=())
    assert _found(target) == []
    other = LogPosition("0" * 32, 1, "mark")
    allow_collection(target.artifacts, other, instead_of=())
    assert [finding.subject for finding in _found(target)] == [other.epoch]


def _found(place: Place) -> list[Finding]:
    return [step for step in examine(place.catalogue, place.artifacts) if isinstance(step, Finding)]
