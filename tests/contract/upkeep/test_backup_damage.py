"""Backups that are damaged, incomplete, in use, of another format or of another library.

The files do not depend on the database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.backups import Place, backup_in
from tests.support.upkeep import DATA
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.backup.folder import LOCK, BackupFolder
from vlibrary.domain.errors import ArtifactsUnavailable, BackupAhead, BackupBusy, InvalidBackup
from vlibrary.upkeep.backup import back_up, restore
from vlibrary.upkeep.examine import examine
from vlibrary.upkeep.findings import Finding


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


def files(folder: Path) -> dict[str, bytes]:
    """Return all files and folders in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text())
    change(content)
    manifest.write_text(json.dumps(content))


def test_a_flipped_byte_of_the_catalogue_is_detected(source: Place, target: Place, tmp_path: Path) -> None:
    source.back_up(tmp_path / "backup")
    (path,) = (tmp_path / "backup").glob("catalogue-*/vectors.jsonl")
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidBackup, match=r"vectors\.jsonl"):
        target.restore(tmp_path / "backup")
    assert target.catalogue.change_log.position().seq == 0


def test_a_damaged_object_is_named_and_the_rest_is_restored_on_request(
    source: Place, target: Place, tmp_path: Path
) -> None:
    source.back_up(tmp_path / "backup")
    damaged = source.catalogue.vectors.page(limit=1).records[0]
    (tmp_path / "backup" / "objects" / damaged.object_key).write_bytes(b"x" * len(DATA))
    before = target.content()
    with pytest.raises(InvalidBackup, match=r"1 of 3 objects.*--despite-losses"):
        target.restore(tmp_path / "backup")
    assert target.content() == before
    assert target.restore(tmp_path / "backup", despite_losses=True).lost == (damaged.object_key,)
    findings = [step for step in examine(target.catalogue, target.artifacts) if isinstance(step, Finding)]
    assert [(finding.kind, finding.subject) for finding in findings] == [("object-missing", damaged.id)]
    # The next backup of the undamaged library repairs the copy, and the next restoration repairs the library.
    assert source.back_up(tmp_path / "backup").copied == 1
    target.restore(tmp_path / "backup", replace=True)
    assert target.content() == source.content()


def test_an_unwritable_folder_is_an_error_and_keeps_the_last_backup(
    source: Place, target: Place, tmp_path: Path
) -> None:
    folder = tmp_path / "backup"
    source.back_up(folder)

    class Full(BackupFolder):
        def new_folder(self) -> Path:
            draft = super().new_folder()
            (draft / "vectors.jsonl").symlink_to("/dev/full")
            return draft

    with pytest.raises(ArtifactsUnavailable, match=r"(exists|No space).*space and permissions"):
        list(back_up(source.stores, Full(folder, FolderArtifacts), actor="tester"))
    target.restore(folder)
    assert target.content() == source.content()


def test_a_backup_has_one_writer_at_a_time(source: Place, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    slow = back_up(source.stores, backup_in(folder), actor="tester")
    next(slow)
    with pytest.raises(BackupBusy):
        source.back_up(folder)
    *_, done = slow
    assert done.lost == ()
    assert source.back_up(folder).there == done.total


def test_a_backup_cannot_be_written_during_its_restoration(source: Place, target: Place, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    source.back_up(folder)
    before = source.content()
    source.publish()
    steps = restore(target.stores, backup_in(folder), overwrite=False, actor="tester")
    next(steps)
    with pytest.raises(BackupBusy):
        source.back_up(folder)
    list(steps)
    assert target.content() == before
    assert source.back_up(folder).copied == 1


def test_a_backup_cannot_be_restored_while_it_is_written(source: Place, target: Place, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    source.back_up(folder)
    slow = back_up(source.stores, backup_in(folder), actor="tester")
    next(slow)
    with pytest.raises(BackupBusy):
        target.restore(folder)
    list(slow)
    target.restore(folder)
    assert target.content() == source.content()


def test_a_backup_on_read_only_storage_is_restored_without_a_lock(source: Place, target: Place, tmp_path: Path) -> None:
    source.back_up(tmp_path / "backup")
    lock = tmp_path / "backup" / LOCK
    lock.unlink()
    lock.mkdir()  # like read-only storage, to which not even root can write
    target.restore(tmp_path / "backup")
    assert target.content() == source.content()
    with pytest.raises(ArtifactsUnavailable):
        source.back_up(tmp_path / "backup")


def test_a_library_with_fewer_changes_does_not_replace_a_backup(source: Place, target: Place, tmp_path: Path) -> None:
    source.back_up(tmp_path / "backup")
    before = files(tmp_path / "backup")
    target.publish()
    with pytest.raises(BackupAhead, match=r"7 changes.*--replace"):
        target.back_up(tmp_path / "backup")
    assert files(tmp_path / "backup") == before
    target.back_up(tmp_path / "backup", replace=True)
    source.restore(tmp_path / "backup", replace=True)
    assert source.content() == target.content()


def test_a_restored_library_updates_its_own_backup_but_no_later_one(
    source: Place, target: Place, tmp_path: Path
) -> None:
    source.back_up(tmp_path / "first")
    source.publish()
    source.back_up(tmp_path / "second")
    target.restore(tmp_path / "first")
    for _ in range(5):
        target.upload()  # skip the ids that exist
    for _ in range(2):  # first as many changes as the backup, then more
        target.publish()
        with pytest.raises(BackupAhead):
            target.back_up(tmp_path / "second")
    target.back_up(tmp_path / "first")
    source.restore(tmp_path / "first", replace=True)
    assert source.content() == target.content()


def test_a_backup_without_a_log_token_is_compared_by_sequence_number(
    source: Place, target: Place, tmp_path: Path
) -> None:
    source.back_up(tmp_path / "backup")
    change_manifest(tmp_path / "backup", lambda content: content["dump"].pop("mark"))
    target.publish()
    with pytest.raises(BackupAhead):
        target.back_up(tmp_path / "backup")
    source.back_up(tmp_path / "backup")


def test_an_unreadable_backup_is_replaced_only_on_request(source: Place, target: Place, tmp_path: Path) -> None:
    source.back_up(tmp_path / "backup")
    (tmp_path / "backup" / "manifest.json").write_text("{")
    before = files(tmp_path / "backup")
    with pytest.raises(InvalidBackup, match="--replace"):
        source.back_up(tmp_path / "backup")
    assert files(tmp_path / "backup") == before
    assert source.back_up(tmp_path / "backup", replace=True).there == 3
    target.restore(tmp_path / "backup")


def test_a_backup_of_other_tables_is_updated(source: Place, target: Place, tmp_path: Path) -> None:
    source.back_up(tmp_path / "backup")
    change_manifest(tmp_path / "backup", lambda content: content["sha256"].pop("aliases.jsonl"))  # earlier release
    source.back_up(tmp_path / "backup")
    target.restore(tmp_path / "backup")
    assert target.content() == source.content()


def test_foreign_files_in_the_backup_folder_are_kept(source: Place, tmp_path: Path) -> None:
    others = [tmp_path / "backup" / name for name in ("catalogue-of-films/jaws", "objects/ab/cdef", "notes.txt")]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for _ in range(2):
        source.back_up(tmp_path / "backup")
    assert all(path.exists() for path in others)


def test_an_incomplete_or_missing_backup_is_an_error(source: Place, target: Place, tmp_path: Path) -> None:
    next(iter(back_up(source.stores, backup_in(tmp_path / "backup"), actor="tester")))
    with pytest.raises(InvalidBackup, match="no complete backup"):
        target.restore(tmp_path / "backup")
    with pytest.raises(InvalidBackup, match="no complete backup"):
        target.restore(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"catalogue": "../elsewhere"}, {"sha256": {}}, {"dump": {}}],
    ids=["format", "path", "tables", "fields"],
)
def test_a_manifest_of_another_format_is_an_error(
    source: Place, target: Place, tmp_path: Path, change: dict[str, object]
) -> None:
    source.back_up(tmp_path / "backup")
    change_manifest(tmp_path / "backup", lambda content: content.update(change))
    with pytest.raises(InvalidBackup):
        target.restore(tmp_path / "backup")


def test_tables_of_another_release_are_an_error(source: Place, target: Place, tmp_path: Path) -> None:
    source.back_up(tmp_path / "backup")
    change_manifest(tmp_path / "backup", lambda content: content["dump"].update(schema="0001"))
    with pytest.raises(InvalidBackup, match="0001"):
        target.restore(tmp_path / "backup", replace=True)
