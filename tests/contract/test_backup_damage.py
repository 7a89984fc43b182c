"""Backups that are damaged, unfinished, or of another kind. Their files are the same, whatever the database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.adapters.backup_folder import BackupFolder
from service.adapters.backup_tables import SqlTables
from service.domain.errors import BackupBusy, InvalidBackup
from service.library.backup import back_up
from service.library.examine import examine
from service.library.findings import Finding
from tests.support.backups import Place
from tests.support.upkeep import DATA


@pytest.fixture
def source(new_sqlite: Callable[[], str], tmp_path: Path) -> Iterator[Place]:
    place = Place(new_sqlite(), tmp_path / "source")
    place.fill()
    yield place
    place.engine.dispose()


@pytest.fixture
def target(new_sqlite: Callable[[], str], tmp_path: Path) -> Iterator[Place]:
    place = Place(new_sqlite(), tmp_path / "target")
    yield place
    place.engine.dispose()


def test_a_flipped_byte_of_the_catalogue_is_noticed(source: Place, target: Place, tmp_path: Path) -> None:
    source.back_up(tmp_path / "backup")
    (path,) = (tmp_path / "backup").glob("catalogue-*/vectors.jsonl")
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidBackup, match=r"vectors\.jsonl"):
        target.restore(tmp_path / "backup")
    assert target.catalogue.position().seq == 0


def test_a_damaged_object_is_named_and_the_rest_comes_back(source: Place, target: Place, tmp_path: Path) -> None:
    source.back_up(tmp_path / "backup")
    damaged = source.catalogue.page(limit=1).records[0]
    (tmp_path / "backup" / "objects" / damaged.object_key).write_bytes(b"x" * len(DATA))
    assert target.restore(tmp_path / "backup").lost == (damaged.object_key,)
    findings = [step for step in examine(target.catalogue, target.artifacts) if isinstance(step, Finding)]
    assert [(finding.kind, finding.subject) for finding in findings] == [("object-missing", damaged.id)]
    # The next backup of the whole library mends the copy, and the next restoration the library.
    assert source.back_up(tmp_path / "backup").copied == 1
    target.restore(tmp_path / "backup", replace=True)
    assert target.content() == source.content()


def test_a_backup_has_one_writer_at_a_time(source: Place, tmp_path: Path) -> None:
    tables, folder = SqlTables(source.engine), tmp_path / "backup"
    slow = back_up(tables, source.artifacts, BackupFolder(folder))
    next(slow)
    with pytest.raises(BackupBusy):
        source.back_up(folder)
    *_, done = slow
    assert done.lost == ()
    assert source.back_up(folder).there == done.total


def test_what_else_lies_in_the_backups_folder_stays(source: Place, tmp_path: Path) -> None:
    others = [tmp_path / "backup" / name for name in ("catalogue-of-films/jaws", "objects/ab/cdef", "notes.txt")]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for _ in range(2):
        source.back_up(tmp_path / "backup")
    assert all(path.exists() for path in others)


def test_an_unfinished_backup_and_no_backup_are_refused(source: Place, target: Place, tmp_path: Path) -> None:
    next(iter(back_up(SqlTables(source.engine), source.artifacts, BackupFolder(tmp_path / "backup"))))
    with pytest.raises(InvalidBackup, match="no whole backup"):
        target.restore(tmp_path / "backup")
    with pytest.raises(InvalidBackup, match="no whole backup"):
        target.restore(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"catalogue": "../elsewhere"}, {"sha256": {}}, {"dump": {}}],
    ids=["format", "path", "tables", "fields"],
)
def test_a_manifest_of_another_kind_is_refused(
    source: Place, target: Place, tmp_path: Path, change: dict[str, object]
) -> None:
    source.back_up(tmp_path / "backup")
    manifest = tmp_path / "backup" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(InvalidBackup):
        target.restore(tmp_path / "backup")


def test_tables_of_another_release_are_refused(source: Place, target: Place, tmp_path: Path) -> None:
    source.back_up(tmp_path / "backup")
    manifest = tmp_path / "backup" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["dump"]["schema"] = "0001"
    manifest.write_text(json.dumps(content))
    with pytest.raises(InvalidBackup, match="0001"):
        target.restore(tmp_path / "backup", replace=True)
