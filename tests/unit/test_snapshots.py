"""Snapshots: whole or not at all, and never believed without a look."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from ulid import ULID

from service.adapters.artifacts_folder import FolderArtifacts
from service.adapters.memory import MemoryArtifacts
from service.adapters.snapshots import Draft, Snapshots, SnapshotsUnavailable
from service.adapters.snapshots_folder import ABANDONED_S, PART, FolderSnapshots, read_manifest
from service.adapters.snapshots_mirror import MirroredSnapshots
from service.domain.ports import Position
from tests.support.upkeep import HandClock

EMBEDDER = "b" * 64


def draft(seq: int, pieces: Mapping[str, bytes] | None = None, *, epoch: str = "epoch", by: str = EMBEDDER) -> Draft:
    writers = {name: _writer(data) for name, data in (pieces or {"a": b"x"}).items()}
    return Draft(Position(epoch, seq), by, {"n": seq}, writers)


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
        assert found.position == Position("epoch", 3)
        assert found.body == {"n": 3}
        assert {name: bytes(piece) for name, piece in found.pieces.items()} == {"rows": b"rows", "members": b"members"}

    def test_there_is_none_at_first(self, snapshots: FolderSnapshots) -> None:
        assert newest_seq(snapshots) is None

    def test_the_newest_wins_and_two_are_kept(self, snapshots: FolderSnapshots) -> None:
        for seq in (1, 2, 3):
            snapshots.save(draft(seq))
        assert newest_seq(snapshots) == 3
        assert [read_manifest(folder).seq for folder in snapshots.folders()] == [3, 2]

    def test_a_piece_that_is_there_is_not_written_again(self, snapshots: FolderSnapshots) -> None:
        snapshots.save(draft(1, {"large": b"large", "small": b"1"}))

        def write_again(path: Path) -> None:
            raise AssertionError("written again")

        again = draft(2, {"other": b"2"})
        snapshots.save(Draft(again.position, EMBEDDER, {}, {**again.pieces, "large": write_again}))
        found = snapshots.newest("epoch", EMBEDDER)
        assert found is not None
        assert {name: bytes(piece) for name, piece in found.pieces.items()} == {"large": b"large", "other": b"2"}

    def test_one_that_is_in_use_stays_readable_when_it_goes(self, snapshots: FolderSnapshots) -> None:
        snapshots.save(draft(1, {"a": b"first"}))
        found = snapshots.newest("epoch", EMBEDDER)
        for seq in (2, 3, 4):
            snapshots.save(draft(seq, {f"a{seq}": b"later"}))
        assert found is not None
        assert bytes(found.pieces["a"]) == b"first"

    def test_what_else_lies_in_the_folder_is_left_alone(self, snapshots: FolderSnapshots, root: Path) -> None:
        others = ["mail", "www", "db", str(ULID()), "mine.draft"]
        for name in others:
            (root / name).mkdir(parents=True)
            (root / name / "file").touch()
            os.utime(root / name, (0, 0))
        for seq in range(5):
            snapshots.save(draft(seq))
            assert newest_seq(snapshots) == seq
        assert all((root / name / "file").exists() for name in others)
        assert len(list(root.iterdir())) == len(others) + 2


class TestDoubting:
    def test_those_of_another_epoch_or_embedder_are_passed_over(self, snapshots: FolderSnapshots) -> None:
        snapshots.save(draft(5))
        snapshots.save(draft(7, epoch="older"))
        assert newest_seq(snapshots) == 5
        snapshots.save(draft(9, by="c" * 64))
        with capture_logs() as logs:
            assert newest_seq(snapshots) is None
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
            snapshots.save(Draft(Position("epoch", 2), EMBEDDER, {}, {"b": fail}))
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
    def here(self, tmp_path: Path, store: MemoryArtifacts) -> MirroredSnapshots:
        return MirroredSnapshots(FolderSnapshots(tmp_path / "here"), store)

    @pytest.fixture
    def there(self, tmp_path: Path, store: MemoryArtifacts) -> MirroredSnapshots:
        return MirroredSnapshots(FolderSnapshots(tmp_path / "there"), store)

    def test_another_machine_finds_what_was_saved(self, here: MirroredSnapshots, there: MirroredSnapshots) -> None:
        here.save(draft(3, {"rows": b"r" * 2 * PART + b"end", "members": b"members"}))
        found = there.newest("epoch", EMBEDDER)
        assert found is not None
        assert found.position == Position("epoch", 3)
        assert found.body == {"n": 3}
        assert {name: bytes(piece[-8:]) for name, piece in found.pieces.items()} == {
            "rows": b"rrrrrend",
            "members": b"members"[-8:],
        }
        assert found.pieces["rows"].size() == 2 * PART + 3

    def test_the_newest_of_both_machines_wins(self, here: MirroredSnapshots, there: MirroredSnapshots) -> None:
        here.save(draft(1))
        there.save(draft(2))
        assert newest_seq(here) == newest_seq(there) == 2

    def test_what_is_stored_already_is_not_stored_again(
        self, here: MirroredSnapshots, there: MirroredSnapshots, store: MemoryArtifacts
    ) -> None:
        here.save(draft(1, {"main": b"main", "small": b"1"}))
        before = {found.key for found in store.list()}
        assert newest_seq(there) == 1
        there.save(draft(2, {"main": b"main", "other": b"2"}))
        added = {found.key for found in store.list()} - before
        assert {key.split("/")[1] for key in added if key.startswith("pieces/")} == {"other"}

    def test_a_damaged_object_is_noticed(
        self, here: MirroredSnapshots, there: MirroredSnapshots, store: MemoryArtifacts
    ) -> None:
        here.save(draft(1, {"first": b"1"}))
        here.save(draft(2, {"second": b"2"}))
        store.delete("pieces/second/000000")
        assert newest_seq(there) == 1

    def test_old_ones_go_but_pieces_that_another_machine_may_be_about_to_name_stay(
        self, here: MirroredSnapshots, store: MemoryArtifacts
    ) -> None:
        for seq in (1, 2, 3):
            here.save(draft(seq, {f"piece{seq}": b"x"}))
        keys = [found.key for found in store.list()]
        assert sum(key.startswith("manifests/") for key in keys) == 2
        assert "pieces/piece1/000000" in keys

    def test_what_else_lies_in_the_store_is_left_alone(self, tmp_path: Path) -> None:
        clock = HandClock()
        store = MemoryArtifacts(clock)
        for key in ("before/vector", "vectors/one", "pieces.txt"):
            store.put(key, b"", hashlib.sha256(b"").hexdigest())
        clock.at += timedelta(days=1)
        mirrored = MirroredSnapshots(FolderSnapshots(tmp_path / "here"), store)
        for seq in range(4):
            mirrored.save(draft(seq))
        kept = {found.key for found in store.list()}
        assert {"before/vector", "vectors/one", "pieces.txt"} <= kept

    def test_a_manifest_of_another_format_or_a_damaged_one_stops_nobody(
        self, here: MirroredSnapshots, there: MirroredSnapshots, store: MemoryArtifacts
    ) -> None:
        other = b'{"format": 1}'
        store.put(f"manifests/0-{hashlib.sha256(other).hexdigest()}.json", other, hashlib.sha256(other).hexdigest())
        store.put(f"manifests/1-{'0' * 64}.json", other, hashlib.sha256(other).hexdigest())
        for seq in (3, 4, 5):
            here.save(draft(seq))
            assert newest_seq(there) == seq
        assert len([found for found in store.list("manifests/") if found.key.startswith("manifests/")]) == 2

    def test_without_the_store_the_folder_serves(self, tmp_path: Path) -> None:
        store = FolderArtifacts(tmp_path / "store")
        mirrored = MirroredSnapshots(FolderSnapshots(tmp_path / "here"), store)
        mirrored.save(draft(4))
        (tmp_path / "store").rename(tmp_path / "gone")
        assert newest_seq(mirrored) == 4
        with pytest.raises(SnapshotsUnavailable):
            mirrored.save(draft(5))
