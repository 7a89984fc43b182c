"""Snapshots: whole or not at all, and never believed without a look."""

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
from vlibrary.adapters.snapshots.folder import ABANDONED_S, PART, FolderSnapshots, read_manifest
from vlibrary.adapters.snapshots.manifest import TRIES, Manifest, Place
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


class TestKeeping:
    def test_what_was_saved_comes_back(self, snapshots: FolderSnapshots, root: Path) -> None:
        snapshots.save(draft(3, {"rows": b"rows", "members": b"members"}))
        found = FolderSnapshots(root).newest("epoch", EMBEDDER)
        assert found is not None
        assert found.position == LogPosition("epoch", 3)
        assert found.body == {"n": 3}
        assert {name: bytes(piece) for name, piece in found.files.items()} == {"rows": b"rows", "members": b"members"}

    def test_there_is_none_at_first(self, snapshots: FolderSnapshots) -> None:
        assert newest_seq(snapshots) is None

    def test_the_newest_wins_and_two_are_kept(self, snapshots: FolderSnapshots) -> None:
        for seq in (1, 2, 3):
            snapshots.save(draft(seq))
        assert newest_seq(snapshots) == 3
        assert [read_manifest(folder).seq for folder in snapshots.folders()] == [3, 2]

    def test_what_was_just_kept_stays_though_two_are_further(self, snapshots: FolderSnapshots) -> None:
        for seq in (8, 9, 3):
            snapshots.save(draft(seq))
        assert {read_manifest(folder).seq for folder in snapshots.folders()} == {8, 9, 3}
        snapshots.save(draft(10))
        assert {read_manifest(folder).seq for folder in snapshots.folders()} == {9, 10}

    @pytest.mark.parametrize("between", [0, 1], ids=["in the newest", "in an older one"])
    def test_a_piece_that_is_there_is_not_written_again(self, snapshots: FolderSnapshots, between: int) -> None:
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

    def test_one_that_is_in_use_stays_readable_when_it_goes(self, snapshots: FolderSnapshots) -> None:
        snapshots.save(draft(1, {"a": b"first"}))
        found = snapshots.newest("epoch", EMBEDDER)
        for seq in (2, 3, 4):
            snapshots.save(draft(seq, {f"a{seq}": b"later"}))
        assert found is not None
        assert bytes(found.files["a"]) == b"first"

    def test_what_else_lies_in_the_folder_is_left_alone(self, snapshots: FolderSnapshots, root: Path) -> None:
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
    """The place as a machine sees it, with or without a clock that is a year fast."""

    def __call__(self, machine: str = "one", *, fast: bool = False) -> Snapshots: ...


class TestChoosing:
    """Several processes keep snapshots in one place, and not all of them are right."""

    @pytest.fixture(params=["folder", "mirror"])
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

    def test_what_was_just_kept_stays_though_others_have_later_names(self, machine: Make) -> None:
        for seq in (7, 8):
            machine(fast=True).save(draft(seq, epoch="older"))
        for seq in (3, 4, 5):
            machine().save(draft(seq))
            assert newest_seq(machine(f"new {seq}")) == seq

    def test_the_furthest_wins_though_others_have_later_names(self, machine: Make) -> None:
        for seq in (1, 2):
            machine(fast=True).save(draft(seq))
        for seq in (3, 4, 5):
            machine().save(draft(seq))
            assert newest_seq(machine(f"new {seq}")) == seq

    def test_a_process_that_lags_removes_nothing_that_is_further(self, machine: Make) -> None:
        for seq in (8, 9, 3, 4, 5):
            machine("late" if seq < 6 else "one").save(draft(seq, {f"a{seq}": b"x"}))
            assert newest_seq(machine(f"new {seq}")) == max(seq, 8 if seq == 8 else 9)

    def test_a_process_in_an_older_epoch_leaves_the_newer_one_its_last(self, machine: Make) -> None:
        machine("late").save(draft(1, epoch="older"))
        for seq in (8, 9):
            machine().save(draft(seq))
        for seq in (2, 3, 4):
            machine("late").save(draft(seq, epoch="older"))
        assert newest_seq(machine("new")) == 9
        machine().save(draft(10))
        assert newest_seq(machine("newer")) == 10

    def test_two_embedders_share_a_place(self, machine: Make) -> None:
        machine().save(draft(3, {"a": b"of one"}))
        for seq in (4, 5, 6):
            machine("two").save(draft(seq, {f"b{seq}": b"of the other"}, by="c" * 64))
        assert newest_seq(machine("new")) == 3

    def test_a_late_name_of_long_ago_costs_nobody_a_snapshot(self, machine: Make) -> None:
        machine(fast=True).save(draft(99, epoch="oldest"))
        machine("late").save(draft(1, epoch="older"))
        machine().save(draft(5))
        machine("two").save(draft(6, {"b": b"of the other"}, by="c" * 64))
        assert newest_seq(machine("new")) == 5
        machine("late").save(draft(2, epoch="older"))
        assert machine("newer").newest_position("epoch", "c" * 64) == LogPosition("epoch", 6)

    def test_it_tells_how_far_the_furthest_goes(self, machine: Make) -> None:
        assert machine().newest_position("epoch", EMBEDDER) is None
        for seq in (5, 4):
            machine().save(draft(seq))
        machine().save(draft(9, epoch="older"))
        assert machine("two").newest_position("epoch", EMBEDDER) == LogPosition("epoch", 5)
        assert machine("two").newest_position("another", EMBEDDER) is None
        assert machine("two").newest_position("epoch", "c" * 64) is None


class TestBeside:
    """Others keep and remove snapshots at the same time."""

    @pytest.mark.parametrize("removals", [0, 1, TRIES - 1, TRIES])
    def test_when_all_are_removed_while_they_are_read_the_newer_ones_are_read(self, removals: int) -> None:
        there = [str(TRIES - removals)]

        def read(name: str) -> Manifest:
            return Manifest(2, "epoch", int(name), "", EMBEDDER, {}, {})

        def open_in_time(name: str, found: Manifest) -> Snapshot:
            if found.seq < TRIES:
                there[:] = [str(found.seq + 1)]
                raise SnapshotDamaged("another process has just removed it")
            return Snapshot(found.position, found.body, {})

        place = Place(lambda: list(there), read, open_in_time)
        found = place.newest("epoch", EMBEDDER)
        # It is not tried for ever.
        assert (None if found is None else found.position.seq) == (TRIES if removals < TRIES else None)

    def test_what_is_damaged_and_stays_is_read_once(self, snapshots: FolderSnapshots) -> None:
        snapshots.save(draft(1))
        (snapshots.folders()[0] / "a").write_bytes(b"y")
        with capture_logs() as logs:
            assert newest_seq(snapshots) is None
        assert len(logs) == 1

    def test_many_keep_at_once_and_none_fails(self, root: Path) -> None:
        def keep(machine: int) -> None:
            for seq in range(40):
                FolderSnapshots(root).save(draft(seq, {f"{machine}-{seq}": b"x"}))
                assert newest_seq(FolderSnapshots(root)) is not None

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(keep, range(4)))
        assert newest_seq(FolderSnapshots(root)) == 39


class TestDoubting:
    def test_those_of_another_epoch_or_embedder_are_passed_over(self, snapshots: FolderSnapshots) -> None:
        snapshots.save(draft(5))
        snapshots.save(draft(7, epoch="older"))
        assert newest_seq(snapshots) == 5
        snapshots.save(draft(9, by="c" * 64))
        with capture_logs() as logs:
            assert newest_seq(snapshots) == 5
        assert [entry["reason"] for entry in logs] == [f"keys of embedder {'c' * 64}", "of epoch older"]

    @pytest.mark.parametrize("offset", [0, 1_000, 2_999])
    def test_a_flipped_bit_is_noticed_and_the_one_before_taken(self, snapshots: FolderSnapshots, offset: int) -> None:
        snapshots.save(draft(1, {"first": b"1" * 3_000}))
        snapshots.save(draft(2, {"second": b"2" * 3_000}))
        path = snapshots.folders()[0] / "second"
        data = bytearray(path.read_bytes())
        data[offset] ^= 1
        path.write_bytes(data)
        with capture_logs() as logs:
            assert newest_seq(snapshots) == 1
        assert [entry["reason"] for entry in logs] == ["second does not have its digest"]

    def test_a_flipped_bit_in_the_manifest_is_noticed(self, snapshots: FolderSnapshots) -> None:
        snapshots.save(draft(11))
        (path,) = snapshots.folders()[0].glob("manifest-*")
        path.write_bytes(path.read_bytes().replace(b'"seq":11', b'"seq":10'))
        assert newest_seq(snapshots) is None

    @pytest.mark.parametrize("harm", ["truncated", "longer", "missing", "no manifest"])
    def test_an_incomplete_one_is_passed_over(self, snapshots: FolderSnapshots, harm: str) -> None:
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

    def test_a_file_of_another_format_is_passed_over(self, snapshots: FolderSnapshots, root: Path) -> None:
        folder = root / "01JZZZZZZZZZZZZZZZZZZZZZZZ"
        folder.mkdir(parents=True)
        (folder / "manifest-44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a.json").write_text("{}")
        assert newest_seq(snapshots) is None


class TestFailing:
    def test_what_cannot_be_written_leaves_the_older_one_and_no_rest(self, snapshots: FolderSnapshots) -> None:
        snapshots.save(draft(1))

        def fail(path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        with pytest.raises(SnapshotsUnavailable, match="No space left"):
            snapshots.save(SnapshotDraft(LogPosition("epoch", 2), EMBEDDER, {}, {"b": fail}))
        assert newest_seq(snapshots) == 1
        assert len(list(snapshots.folders()[0].parent.iterdir())) == 1

    def test_a_draft_of_a_dead_process_is_never_read_and_goes_in_time(
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

    def test_a_place_that_cannot_be_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(SnapshotsUnavailable):
            FolderSnapshots(tmp_path / "file" / "below").save(draft(1))


class TestMirror:
    """Two machines with folders of their own and one object store."""

    @pytest.fixture
    def store(self) -> MemoryArtifacts:
        return MemoryArtifacts()

    @pytest.fixture
    def here(self, tmp_path: Path, store: MemoryArtifacts) -> ObjectStoreSnapshots:
        return ObjectStoreSnapshots(FolderSnapshots(tmp_path / "here"), store)

    @pytest.fixture
    def there(self, tmp_path: Path, store: MemoryArtifacts) -> ObjectStoreSnapshots:
        return ObjectStoreSnapshots(FolderSnapshots(tmp_path / "there"), store)

    def test_another_machine_finds_what_was_saved(
        self, here: ObjectStoreSnapshots, there: ObjectStoreSnapshots
    ) -> None:
        here.save(draft(3, {"rows": b"r" * 2 * PART + b"end", "members": b"members"}))
        found = there.newest("epoch", EMBEDDER)
        assert found is not None
        assert found.position == LogPosition("epoch", 3)
        assert found.body == {"n": 3}
        assert {name: bytes(piece[-8:]) for name, piece in found.files.items()} == {
            "rows": b"rrrrrend",
            "members": b"members"[-8:],
        }
        assert found.files["rows"].size() == 2 * PART + 3

    def test_the_newest_of_both_machines_wins(self, here: ObjectStoreSnapshots, there: ObjectStoreSnapshots) -> None:
        here.save(draft(1))
        there.save(draft(2))
        assert newest_seq(here) == newest_seq(there) == 2

    def test_what_is_stored_already_is_not_stored_again(
        self, here: ObjectStoreSnapshots, there: ObjectStoreSnapshots, store: MemoryArtifacts
    ) -> None:
        here.save(draft(1, {"main": b"main", "small": b"1"}))
        before = {found.key for found in store.list()}
        assert newest_seq(there) == 1
        there.save(draft(2, {"main": b"main", "other": b"2"}))
        added = {found.key for found in store.list()} - before
        assert {key.split("/")[1] for key in added if key.startswith("pieces/")} == {"other"}

    def test_what_lies_in_the_folder_is_not_fetched_again(self, tmp_path: Path, store: MemoryArtifacts) -> None:
        folder = FolderSnapshots(tmp_path / "here")
        here = ObjectStoreSnapshots(folder, store)
        here.save(draft(1))
        before = folder.folders()
        assert newest_seq(here) == 1
        assert folder.folders() == before

    def test_a_damaged_object_is_noticed(
        self, here: ObjectStoreSnapshots, there: ObjectStoreSnapshots, store: MemoryArtifacts
    ) -> None:
        here.save(draft(1, {"first": b"1"}))
        here.save(draft(2, {"second": b"2"}))
        store.delete("pieces/second/000000")
        assert newest_seq(there) == 1

    def test_old_ones_go_but_pieces_that_another_machine_may_be_about_to_name_stay(
        self, here: ObjectStoreSnapshots, store: MemoryArtifacts
    ) -> None:
        for seq in (1, 2, 3):
            here.save(draft(seq, {f"piece{seq}": b"x"}))
        keys = [found.key for found in store.list()]
        assert sum(key.startswith("manifests/") for key in keys) == 2
        assert "pieces/piece1/000000" in keys

    def test_pieces_that_nobody_needs_go_in_time(self, tmp_path: Path) -> None:
        clock = HandClock()
        store = MemoryArtifacts(clock)
        here = ObjectStoreSnapshots(FolderSnapshots(tmp_path / "here"), store)
        for seq in (1, 2, 3):
            here.save(draft(seq, {f"piece{seq}": b"x"}))
        clock.at += timedelta(hours=2)
        here.save(draft(4, {"piece4": b"x"}))
        pieces = {found.key for found in store.list() if found.key.startswith("pieces/")}
        assert pieces == {"pieces/piece3/000000", "pieces/piece4/000000"}

    def test_what_else_lies_in_the_store_is_left_alone(self, tmp_path: Path) -> None:
        clock = HandClock()
        store = MemoryArtifacts(clock)
        for key in ("before/vector", "vectors/one", "pieces.txt"):
            store.put(key, b"", hashlib.sha256(b"").hexdigest())
        clock.at += timedelta(days=1)
        mirrored = ObjectStoreSnapshots(FolderSnapshots(tmp_path / "here"), store)
        for seq in range(4):
            mirrored.save(draft(seq))
        kept = {found.key for found in store.list()}
        assert {"before/vector", "vectors/one", "pieces.txt"} <= kept

    def test_a_manifest_of_another_format_or_a_damaged_one_stops_nobody(
        self, here: ObjectStoreSnapshots, there: ObjectStoreSnapshots, store: MemoryArtifacts
    ) -> None:
        other = b'{"format": 1}'
        store.put(f"manifests/0-{hashlib.sha256(other).hexdigest()}.json", other, hashlib.sha256(other).hexdigest())
        store.put(f"manifests/1-{'0' * 64}.json", other, hashlib.sha256(other).hexdigest())
        for seq in (3, 4, 5):
            here.save(draft(seq))
            assert newest_seq(there) == seq
        # Those that cannot be read may be another release's: the newest stays, and the newest that is named earlier.
        assert len([found for found in store.list("manifests/") if found.key.startswith("manifests/")]) == 4

    def test_without_the_store_the_folder_serves(self, tmp_path: Path) -> None:
        store = FolderArtifacts(tmp_path / "store")
        mirrored = ObjectStoreSnapshots(FolderSnapshots(tmp_path / "here"), store)
        mirrored.save(draft(4))
        (tmp_path / "store").rename(tmp_path / "gone")
        assert newest_seq(mirrored) == 4
        assert mirrored.newest_position("epoch", EMBEDDER) is None
        with pytest.raises(SnapshotsUnavailable):
            mirrored.save(draft(5))
        assert newest_seq(mirrored) == 5
