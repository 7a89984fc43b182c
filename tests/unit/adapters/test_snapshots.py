"""Snapshot storage: atomic, shared by processes, and checked before use."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from structlog.testing import capture_logs
from ulid import ULID

from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.upkeep import HandClock
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.snapshots.folder import ABANDONED_S, FolderSnapshots
from vlibrary.adapters.snapshots.manifest import ATTEMPTS, FORMAT, Manifest, SnapshotSource
from vlibrary.adapters.snapshots.object_store import ObjectStoreSnapshots
from vlibrary.domain.changes import LogPosition
from vlibrary.domain.ports.snapshots import Snapshot, SnapshotDamaged, SnapshotDraft, Snapshots, SnapshotsUnavailable

EMBEDDER = "b" * 64


def draft(
    seq: int, files: Mapping[str, bytes] | None = None, *, epoch: str = "epoch", by: str = EMBEDDER
) -> SnapshotDraft:
    writers = {name: _writer(data) for name, data in (files or {"a": b"x"}).items()}
    return SnapshotDraft(LogPosition(epoch, seq), by, {"n": seq}, writers)


def _writer(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
def snapshots(root: Path) -> FolderSnapshots:
    return FolderSnapshots(root)


def newest_seq(snapshots: Snapshots, epoch: str = "epoch") -> int | None:
    found = snapshots.newest(epoch, EMBEDDER)
    return None if found is None else found.position.seq


class TestSaving:
    def test_a_saved_snapshot_is_loaded(self, snapshots: FolderSnapshots, root: Path) -> None:
        snapshots.save(draft(3, {"rows": b"rows", "members": b"members"}))
        found = FolderSnapshots(root).newest("epoch", EMBEDDER)
        assert found is not None
        assert found.position == LogPosition("epoch", 3)
        assert found.body == {"n": 3}
        assert {name: bytes(piece) for name, piece in found.files.items()} == {"rows": b"rows", "members": b"members"}

    def test_an_empty_folder_has_no_snapshot(self, snapshots: FolderSnapshots) -> None:
        assert newest_seq(snapshots) is None

    def test_the_newest_is_loaded_and_two_are_retained(self, snapshots: FolderSnapshots) -> None:
        for seq in (1, 2, 3):
            snapshots.save(draft(seq))
        assert newest_seq(snapshots) == 3
        assert [snapshots.read_manifest(folder.name).seq for folder in snapshots.folders()] == [3, 2]

    def test_the_snapshot_just_saved_is_retained_although_two_are_higher(self, snapshots: FolderSnapshots) -> None:
        for seq in (8, 9, 3):
            snapshots.save(draft(seq))
        assert {snapshots.read_manifest(folder.name).seq for folder in snapshots.folders()} == {8, 9, 3}
        snapshots.save(draft(10))
        assert {snapshots.read_manifest(folder.name).seq for folder in snapshots.folders()} == {9, 10}

    @pytest.mark.parametrize("between", [0, 1], ids=["in the newest", "in an older one"])
    def test_an_existing_file_is_not_written_again(self, snapshots: FolderSnapshots, between: int) -> None:
        snapshots.save(draft(1, {"large": b"large", "small": b"1"}))
        for _ in range(between):
            snapshots.save(draft(1, {"another replica's": b"large"}))

        def write_again(path: Path) -> None:
            raise AssertionError("written again")

        again = draft(2, {"other": b"2"})
        snapshots.save(SnapshotDraft(again.position, EMBEDDER, {}, {**again.files, "large": write_again}))
        found = snapshots.newest("epoch", EMBEDDER)
        assert found is not None
        assert {name: bytes(piece) for name, piece in found.files.items()} == {"large": b"large", "other": b"2"}

    def test_a_snapshot_in_use_stays_readable_after_its_deletion(self, snapshots: FolderSnapshots) -> None:
        snapshots.save(draft(1, {"a": b"first"}))
        found = snapshots.newest("epoch", EMBEDDER)
        for seq in (2, 3, 4):
            snapshots.save(draft(seq, {f"a{seq}": b"later"}))
        assert found is not None
        assert bytes(found.files["a"]) == b"first"

    def test_other_content_of_the_folder_is_not_touched(self, snapshots: FolderSnapshots, root: Path) -> None:
        others = ["mail", "www", "db", str(ULID()), str(ULID()), "mine.draft"]
        for name in others:
            (root / name).mkdir(parents=True)
            (root / name / "file").touch()
            os.utime(root / name, (0, 0))
        for seq in range(5):
            snapshots.save(draft(seq))
            assert newest_seq(snapshots) == seq
        assert all((root / name / "file").exists() for name in others)
        assert len(list(root.iterdir())) == len(others) + 2


class Make(Protocol):
    """Opens the storage as a machine sees it; fast: its clock is a year fast."""

    def __call__(self, machine: str = "one", *, fast: bool = False) -> Snapshots: ...


class TestChoosing:
    """Several processes save snapshots to the same storage, and some lag or have a wrong clock."""

    @pytest.fixture(params=["folder", "object store"])
    def machine(self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
        store = MemoryArtifacts()

        def make(machine: str = "one", *, fast: bool = False) -> Snapshots:
            ahead = time.time() + 366 * 86_400
            names = partial(ULID.from_timestamp, ahead) if fast else ULID
            monkeypatch.setattr("vlibrary.adapters.snapshots.folder.ULID", names)
            if request.param == "folder":
                return FolderSnapshots(tmp_path / "shared")
            return ObjectStoreSnapshots(FolderSnapshots(tmp_path / machine), store)

        return make

    def test_the_snapshot_just_saved_is_retained_although_others_have_later_names(self, machine: Make) -> None:
        for seq in (7, 8):
            machine(fast=True).save(draft(seq, epoch="older"))
        for seq in (3, 4, 5):
            machine().save(draft(seq))
            assert newest_seq(machine(f"new {seq}")) == seq

    def test_the_highest_is_loaded_although_others_have_later_names(self, machine: Make) -> None:
        for seq in (1, 2):
            machine(fast=True).save(draft(seq))
        for seq in (3, 4, 5):
            machine().save(draft(seq))
            assert newest_seq(machine(f"new {seq}")) == seq

    def test_a_lagging_process_deletes_no_higher_snapshot(self, machine: Make) -> None:
        for seq in (8, 9, 3, 4, 5):
            machine("late" if seq < 6 else "one").save(draft(seq, {f"a{seq}": b"x"}))
            assert newest_seq(machine(f"new {seq}")) == max(seq, 8 if seq == 8 else 9)

    def test_a_process_in_an_older_epoch_retains_the_newer_epochs_last(self, machine: Make) -> None:
        machine("late").save(draft(1, epoch="older"))
        for seq in (8, 9):
            machine().save(draft(seq))
        for seq in (2, 3, 4):
            machine("late").save(draft(seq, epoch="older"))
        assert newest_seq(machine("new")) == 9
        machine().save(draft(10))
        assert newest_seq(machine("newer")) == 10

    def test_two_embedders_can_share_the_storage(self, machine: Make) -> None:
        machine().save(draft(3, {"a": b"of one"}))
        for seq in (4, 5, 6):
            machine("two").save(draft(seq, {f"b{seq}": b"of the other"}, by="c" * 64))
        assert newest_seq(machine("new")) == 3

    def test_an_old_snapshot_with_a_late_name_causes_no_deletion(self, machine: Make) -> None:
        machine(fast=True).save(draft(99, epoch="oldest"))
        machine("late").save(draft(1, epoch="older"))
        machine().save(draft(5))
        machine("two").save(draft(6, {"b": b"of the other"}, by="c" * 64))
        assert newest_seq(machine("new")) == 5
        machine("late").save(draft(2, epoch="older"))
        assert machine("newer").newest_position("epoch", "c" * 64) == LogPosition("epoch", 6)

    def test_the_newest_position_is_that_of_the_highest_snapshot(self, machine: Make) -> None:
        assert machine().newest_position("epoch", EMBEDDER) is None
        for seq in (5, 4):
            machine().save(draft(seq))
        machine().save(draft(9, epoch="older"))
        assert machine("two").newest_position("epoch", EMBEDDER) == LogPosition("epoch", 5)
        assert machine("two").newest_position("another", EMBEDDER) is None
        assert machine("two").newest_position("epoch", "c" * 64) is None


class TestConcurrency:
    """Other processes save and delete snapshots at the same time."""

    @pytest.mark.parametrize("removals", [0, 1, ATTEMPTS - 1, ATTEMPTS])
    def test_newer_snapshots_are_read_when_all_are_deleted_during_the_read(self, removals: int) -> None:
        class Overtaken(SnapshotSource):
            """Another process replaces each snapshot before it is opened."""

            names_now = (str(ATTEMPTS - removals),)

            def names(self) -> list[str]:
                return list(self.names_now)

            def read_manifest(self, name: str) -> Manifest:
                return Manifest(FORMAT, "epoch", int(name), "", EMBEDDER, {}, {})

            def open(self, name: str, manifest: Manifest) -> Snapshot:
                if manifest.seq < ATTEMPTS:
                    self.names_now = (str(manifest.seq + 1),)
                    raise SnapshotDamaged("another process has deleted it")
                return Snapshot(manifest.position, manifest.body, {})

        found = Overtaken().find("epoch", EMBEDDER)
        # The number of attempts is limited.
        assert (None if found is None else found.position.seq) == (ATTEMPTS if removals < ATTEMPTS else None)

    def test_a_corrupt_snapshot_is_read_once(self, snapshots: FolderSnapshots) -> None:
        snapshots.save(draft(1))
        (snapshots.folders()[0] / "a").write_bytes(b"y")
        with capture_logs() as logs:
            assert newest_seq(snapshots) is None
        assert len(logs) == 1

    def test_concurrent_saves_all_succeed(self, root: Path) -> None:
        def save(machine: int) -> None:
            for seq in range(40):
                FolderSnapshots(root).save(draft(seq, {f"{machine}-{seq}": b"x"}))
                assert newest_seq(FolderSnapshots(root)) is not None

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(save, range(4)))
        assert newest_seq(FolderSnapshots(root)) == 39


class TestChecking:
    def test_snapshots_of_another_epoch_or_embedder_are_skipped(self, snapshots: FolderSnapshots) -> None:
        snapshots.save(draft(5))
        snapshots.save(draft(7, epoch="older"))
        assert newest_seq(snapshots) == 5
        snapshots.save(draft(9, by="c" * 64))
        with capture_logs() as logs:
            assert newest_seq(snapshots) == 5
        assert [entry["reason"] for entry in logs] == [f"keys of embedder {'c' * 64}", "epoch older"]

    @pytest.mark.parametrize("offset", [0, 1_000, 2_999])
    def test_a_flipped_bit_is_detected_and_the_previous_snapshot_loaded(
        self, snapshots: FolderSnapshots, offset: int
    ) -> None:
        snapshots.save(draft(1, {"first": b"1" * 3_000}))
        snapshots.save(draft(2, {"second": b"2" * 3_000}))
        path = snapshots.folders()[0] / "second"
        data = bytearray(path.read_bytes())
        data[offset] ^= 1
        path.write_bytes(data)
        with capture_logs() as logs:
            assert newest_seq(snapshots) == 1
        assert [entry["reason"] for entry in logs] == ["second does not match its digest"]

    def test_a_flipped_bit_in_the_manifest_is_detected(self, snapshots: FolderSnapshots) -> None:
        snapshots.save(draft(11))
        (path,) = snapshots.folders()[0].glob("manifest-*")
        path.write_bytes(path.read_bytes().replace(b'"seq":11', b'"seq":10'))
        assert newest_seq(snapshots) is None

    @pytest.mark.parametrize("harm", ["truncated", "longer", "missing", "no manifest"])
    def test_an_incomplete_snapshot_is_skipped(self, snapshots: FolderSnapshots, harm: str) -> None:
        snapshots.save(draft(1, {"a": b"abc"}))
        folder = snapshots.folders()[0]
        match harm:
            case "truncated":
                (folder / "a").write_bytes(b"ab")
            case "longer":
                (folder / "a").write_bytes(b"abcd")
            case "missing":
                (folder / "a").unlink()
            case _:
                next(folder.glob("manifest-*")).unlink()
        with capture_logs() as logs:
            assert newest_seq(snapshots) is None
        assert len(logs) == 1
        snapshots.save(draft(2, {"a": b"abc"}))
        assert newest_seq(snapshots) == (None if harm in ("truncated", "longer") else 2)

    def test_a_manifest_of_another_format_is_skipped(self, snapshots: FolderSnapshots, root: Path) -> None:
        folder = root / "01JZZZZZZZZZZZZZZZZZZZZZZZ"
        folder.mkdir(parents=True)
        (folder / "manifest-44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a.json").write_text("{}")
        assert newest_seq(snapshots) is None


class TestFailing:
    def test_a_failed_save_leaves_the_previous_snapshot_and_no_draft(self, snapshots: FolderSnapshots) -> None:
        snapshots.save(draft(1))

        def fail(path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        with pytest.raises(SnapshotsUnavailable, match="No space left"):
            snapshots.save(SnapshotDraft(LogPosition("epoch", 2), EMBEDDER, {}, {"b": fail}))
        assert newest_seq(snapshots) == 1
        assert len(list(snapshots.folders()[0].parent.iterdir())) == 1

    def test_a_draft_of_a_dead_process_is_never_read_and_is_deleted_later(
        self, snapshots: FolderSnapshots, root: Path
    ) -> None:
        young, old = (root / f"{ULID()}.draft" for _ in range(2))
        for folder in (young, old):
            folder.mkdir(parents=True)
            (folder / "a").write_bytes(b"half")
        long_ago = time.time() - 2 * ABANDONED_S
        os.utime(old, (long_ago, long_ago))
        assert newest_seq(snapshots) is None
        snapshots.save(draft(1))
        assert young.exists()
        assert not old.exists()

    def test_an_unusable_folder_raises(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(SnapshotsUnavailable):
            FolderSnapshots(tmp_path / "file" / "below").save(draft(1))


class TestObjectStore:
    """Two machines with a folder each and one object store."""

    @pytest.fixture
    def store(self) -> MemoryArtifacts:
        return MemoryArtifacts()

    @pytest.fixture
    def here(self, tmp_path: Path, store: MemoryArtifacts) -> ObjectStoreSnapshots:
        return ObjectStoreSnapshots(FolderSnapshots(tmp_path / "here"), store)

    @pytest.fixture
    def there(self, tmp_path: Path, store: MemoryArtifacts) -> ObjectStoreSnapshots:
        return ObjectStoreSnapshots(FolderSnapshots(tmp_path / "there"), store)

    def test_another_machine_loads_the_snapshot(
        self, here: ObjectStoreSnapshots, there: ObjectStoreSnapshots, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        part = 1_000
        for module in ("folder", "object_store"):
            monkeypatch.setattr(f"vlibrary.adapters.snapshots.{module}.PART", part)
        here.save(draft(3, {"rows": b"r" * 2 * part + b"end", "members": b"members"}))
        found = there.newest("epoch", EMBEDDER)
        assert found is not None
        assert found.position == LogPosition("epoch", 3)
        assert found.body == {"n": 3}
        assert {name: bytes(piece[-8:]) for name, piece in found.files.items()} == {
            "rows": b"rrrrrend",
            "members": b"members"[-8:],
        }
        assert found.files["rows"].size() == 2 * part + 3

    def test_the_newest_of_both_machines_is_loaded(
        self, here: ObjectStoreSnapshots, there: ObjectStoreSnapshots
    ) -> None:
        here.save(draft(1))
        there.save(draft(2))
        assert newest_seq(here) == newest_seq(there) == 2

    def test_a_stored_file_is_not_stored_again(
        self, here: ObjectStoreSnapshots, there: ObjectStoreSnapshots, store: MemoryArtifacts
    ) -> None:
        here.save(draft(1, {"main": b"main", "small": b"1"}))
        before = {found.key for found in store.list()}
        assert newest_seq(there) == 1
        there.save(draft(2, {"main": b"main", "other": b"2"}))
        added = {found.key for found in store.list()} - before
        assert {key.split("/")[1] for key in added if key.startswith("pieces/")} == {"other"}

    def test_a_snapshot_in_the_folder_is_not_fetched_again(self, tmp_path: Path, store: MemoryArtifacts) -> None:
        folder = FolderSnapshots(tmp_path / "here")
        here = ObjectStoreSnapshots(folder, store)
        here.save(draft(1))
        before = folder.folders()
        assert newest_seq(here) == 1
        assert folder.folders() == before

    def test_a_missing_object_is_detected(
        self, here: ObjectStoreSnapshots, there: ObjectStoreSnapshots, store: MemoryArtifacts
    ) -> None:
        here.save(draft(1, {"first": b"1"}))
        here.save(draft(2, {"second": b"2"}))
        store.delete("pieces/second/000000")
        assert newest_seq(there) == 1

    def test_parts_that_another_machine_may_be_about_to_reference_are_retained(
        self, here: ObjectStoreSnapshots, store: MemoryArtifacts
    ) -> None:
        for seq in (1, 2, 3):
            here.save(draft(seq, {f"piece{seq}": b"x"}))
        keys = [found.key for found in store.list()]
        assert sum(key.startswith("manifests/") for key in keys) == 2
        assert "pieces/piece1/000000" in keys

    def test_unneeded_parts_are_deleted_later(self, tmp_path: Path) -> None:
        clock = HandClock()
        store = MemoryArtifacts(clock)
        here = ObjectStoreSnapshots(FolderSnapshots(tmp_path / "here"), store)
        for seq in (1, 2, 3):
            here.save(draft(seq, {f"piece{seq}": b"x"}))
        clock.at += timedelta(hours=2)
        here.save(draft(4, {"piece4": b"x"}))
        pieces = {found.key for found in store.list() if found.key.startswith("pieces/")}
        assert pieces == {"pieces/piece3/000000", "pieces/piece4/000000"}

    def test_other_objects_of_the_store_are_not_touched(self, tmp_path: Path) -> None:
        clock = HandClock()
        store = MemoryArtifacts(clock)
        for key in ("before/vector", "vectors/one", "pieces.txt"):
            store.put(key, b"", hashlib.sha256(b"").hexdigest())
        clock.at += timedelta(days=1)
        shared = ObjectStoreSnapshots(FolderSnapshots(tmp_path / "here"), store)
        for seq in range(4):
            shared.save(draft(seq))
        kept = {found.key for found in store.list()}
        assert {"before/vector", "vectors/one", "pieces.txt"} <= kept

    def test_unreadable_manifests_do_not_stop_saving_or_loading(
        self, here: ObjectStoreSnapshots, there: ObjectStoreSnapshots, store: MemoryArtifacts
    ) -> None:
        other = b'{"format": 1}'
        store.put(f"manifests/0-{hashlib.sha256(other).hexdigest()}.json", other, hashlib.sha256(other).hexdigest())
        store.put(f"manifests/1-{'0' * 64}.json", other, hashlib.sha256(other).hexdigest())
        for seq in (3, 4, 5):
            here.save(draft(seq))
            assert newest_seq(there) == seq
        # An unreadable manifest may be another release's: the newest and the newest named earlier are retained.
        assert len([found for found in store.list("manifests/") if found.key.startswith("manifests/")]) == 4

    def test_the_folder_is_used_when_the_store_is_down(self, tmp_path: Path) -> None:
        store = FolderArtifacts(tmp_path / "store")
        shared = ObjectStoreSnapshots(FolderSnapshots(tmp_path / "here"), store)
        shared.save(draft(4))
        (tmp_path / "store").rename(tmp_path / "gone")
        assert newest_seq(shared) == 4
        assert shared.newest_position("epoch", EMBEDDER) is None
        with pytest.raises(SnapshotsUnavailable):
            shared.save(draft(5))
        assert newest_seq(shared) == 5
