"""Failures of the folder store: partial and corrupt files, a full disk, a missing disk."""

from __future__ import annotations

import hashlib
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.domain.errors import ArtifactLost, ArtifactsUnavailable

KEY = "01JD/abc.safetensors"
DATA = bytes(range(256)) * 2_000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Limits files to 100 kB, so that a write fails halfway."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_object_is_one_file_under_its_key(tmp_path: Path) -> None:
    FolderArtifacts(tmp_path).put(KEY, DATA, SHA256)
    assert files(tmp_path) == [KEY]
    assert (tmp_path / KEY).read_bytes() == DATA


def test_a_deleted_object_leaves_no_folder_behind(tmp_path: Path) -> None:
    artifacts = FolderArtifacts(tmp_path)
    artifacts.put(KEY, DATA, SHA256)
    artifacts.delete(KEY)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path: Path, small_disk: None) -> None:
    artifacts = FolderArtifacts(tmp_path)
    with pytest.raises(ArtifactsUnavailable):
        artifacts.put(KEY, DATA, SHA256)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "damage", [DATA[:-1], b"", DATA[:1000] + b"\x00" + DATA[1001:]], ids=["cut", "empty", "flipped"]
)
def test_a_corrupt_file_is_neither_returned_nor_accepted_as_stored(tmp_path: Path, damage: bytes) -> None:
    artifacts = FolderArtifacts(tmp_path)
    artifacts.put(KEY, DATA, SHA256)
    (tmp_path / KEY).write_bytes(damage)
    with pytest.raises(ArtifactLost):
        artifacts.get(KEY, SHA256)
    with pytest.raises(ArtifactLost):
        artifacts.put(KEY, DATA, SHA256)


def test_a_folder_in_place_of_an_object_is_a_lost_artifact(tmp_path: Path) -> None:
    (tmp_path / KEY).mkdir(parents=True)
    with pytest.raises(ArtifactLost):
        FolderArtifacts(tmp_path).get(KEY, SHA256)


def test_a_missing_root_is_not_a_lost_artifact(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    artifacts = FolderArtifacts(root)
    artifacts.put(KEY, DATA, SHA256)
    root.rename(tmp_path / "unmounted")
    with pytest.raises(ArtifactsUnavailable):
        artifacts.get(KEY, SHA256)
    with pytest.raises(ArtifactsUnavailable):
        artifacts.put("02/b", DATA, SHA256)
    with pytest.raises(ArtifactsUnavailable):
        artifacts.delete(KEY)
    with pytest.raises(ArtifactsUnavailable):
        artifacts.check()
    assert not root.exists()


def test_a_root_that_cannot_be_created_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactsUnavailable):
        FolderArtifacts(tmp_path / "file")
    with pytest.raises(ArtifactsUnavailable):
        FolderArtifacts(Path("/proc/nothing/here"))


def test_drafts_of_a_killed_writer_are_listed_and_can_be_deleted(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; "
        "from vlibrary.adapters.artifacts.folder import FolderArtifacts; "
        "os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        f"FolderArtifacts(Path(sys.argv[1])).put({KEY!r}, b'', {hashlib.sha256(b'').hexdigest()!r})"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    artifacts = FolderArtifacts(tmp_path)
    (left,) = artifacts.list()
    assert left.key.startswith("01JD/draft-")
    artifacts.delete(left.key)
    assert list(artifacts.list()) == []
    assert list(tmp_path.iterdir()) == []


def test_other_files_and_folders_are_not_listed(tmp_path: Path) -> None:
    artifacts = FolderArtifacts(tmp_path)
    artifacts.put(KEY, DATA, SHA256)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "a").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "01JD" / "loop").symlink_to(tmp_path)
    assert next(artifacts.list()).key == KEY
    assert len(list(artifacts.list())) < 10


def test_errors_do_not_reveal_the_path(tmp_path: Path, small_disk: None) -> None:
    with pytest.raises(ArtifactsUnavailable) as caught:
        FolderArtifacts(tmp_path).put(KEY, DATA, SHA256)
    assert str(tmp_path) not in str(caught.value)
