"""Contract of the Artifacts port, on the in-memory store, a folder and a real S3 server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.memory.artifacts import MemoryArtifacts
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.domain.errors import ArtifactLost, InvalidInput
from vlibrary.domain.ports.artifacts import Artifacts

KEY = "01JD/abc.safetensors"
DATA = bytes(range(256)) * 2_000


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["memory", "folder", pytest.param("s3", marks=pytest.mark.real)])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    if request.param == "memory":
        return MemoryArtifacts()
    if request.param == "folder":
        return FolderArtifacts(tmp_path / "artifacts")
    make: Callable[[], Artifacts] = request.getfixturevalue("s3_artifacts")
    return make()


@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=len)
def test_a_stored_object_is_read_back(artifacts: Artifacts, data: bytes) -> None:
    artifacts.put(KEY, data, sha256(data))
    assert artifacts.get(KEY, sha256(data)) == data


def test_the_same_bytes_can_be_stored_again(artifacts: Artifacts) -> None:
    for _ in range(2):
        artifacts.put(KEY, DATA, sha256(DATA))
    assert artifacts.get(KEY, sha256(DATA)) == DATA


def test_other_bytes_under_a_used_key_raise(artifacts: Artifacts) -> None:
    artifacts.put(KEY, DATA, sha256(DATA))
    with pytest.raises(ArtifactLost):
        artifacts.put(KEY, b"other", sha256(b"other"))
    assert artifacts.get(KEY, sha256(DATA)) == DATA


def test_bytes_with_another_digest_are_not_stored(artifacts: Artifacts) -> None:
    with pytest.raises(ArtifactLost):
        artifacts.put(KEY, DATA, sha256(b"other"))
    artifacts.put(KEY, b"other", sha256(b"other"))


def test_missing_and_corrupt_objects_raise(artifacts: Artifacts) -> None:
    with pytest.raises(ArtifactLost, match="missing"):
        artifacts.get(KEY, sha256(DATA))
    artifacts.put(KEY, DATA, sha256(DATA))
    with pytest.raises(ArtifactLost, match="digest"):
        artifacts.get(KEY, sha256(b"other"))


def test_deleting_an_object_does_not_affect_others(artifacts: Artifacts) -> None:
    for key in (KEY, "01JD/other", "01JD0"):
        artifacts.put(key, DATA, sha256(DATA))
    artifacts.delete(KEY)
    artifacts.delete(KEY)
    artifacts.delete("never/there")
    with pytest.raises(ArtifactLost):
        artifacts.get(KEY, sha256(DATA))
    for key in ("01JD/other", "01JD0"):
        assert artifacts.get(key, sha256(DATA)) == DATA


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "a/",
        "/etc/passwd",
        "../a",
        "a/../b",
        "a/./b",
        "a//b",
        ".hidden",
        "a/.b",
        "a\\b",
        "a b",
        "ä",
        "a\n",
        "\x00",
        "a" * 201,
        "a/b/c/d/e",
        "~",
    ],
)
def test_keys_that_could_escape_the_store_raise(artifacts: Artifacts, key: str) -> None:
    with pytest.raises(InvalidInput):
        artifacts.put(key, DATA, sha256(DATA))
    with pytest.raises(InvalidInput):
        artifacts.get(key, sha256(DATA))
    with pytest.raises(InvalidInput):
        artifacts.delete(key)


def test_objects_are_listed_in_key_order(artifacts: Artifacts) -> None:
    keys = ["01/b", "01/a/c", "01-x", "01.y/z", "01a", "0", "01/a.b", "Z/a", "a/B", "01/a-b/c/d"]
    for key in keys:
        artifacts.put(key, key.encode(), sha256(key.encode()))
    assert [found.key for found in artifacts.list()] == sorted(keys)
    assert {found.key: found.size for found in artifacts.list()} == {key: len(key) for key in keys}


@pytest.mark.parametrize("after", ["", "0", "01-", "01.y", "01/", "01/a", "01/a/", "01/a/c", "01/zz", "01a", "zz"])
def test_a_listing_can_start_after_any_key(artifacts: Artifacts, after: str) -> None:
    keys = ["01/b", "01/a/c", "01-x", "01.y/z", "01a", "0"]
    for key in keys:
        artifacts.put(key, DATA, sha256(DATA))
    assert [found.key for found in artifacts.list(after=after)] == sorted(key for key in keys if key > after)


def test_stat_returns_size_and_time(artifacts: Artifacts) -> None:
    before = artifacts.now() - timedelta(seconds=2)
    artifacts.put(KEY, DATA, sha256(DATA))
    artifacts.put(f"{KEY}2", b"", sha256(b""))
    found = artifacts.stat(KEY)
    assert found is not None
    assert (found.key, found.size) == (KEY, len(DATA))
    assert before <= found.modified <= artifacts.now() + timedelta(seconds=1)
    assert found == next(artifacts.list())
    artifacts.delete(KEY)
    assert artifacts.stat(KEY) is None
    assert artifacts.stat("01JD") is None
    with pytest.raises(InvalidInput):
        artifacts.stat("../a")


def test_a_listing_tolerates_concurrent_changes(artifacts: Artifacts) -> None:
    for number in range(6):
        artifacts.put(f"0{number}/x", DATA, sha256(DATA))
    listing = artifacts.list()
    seen = [next(listing).key]
    artifacts.delete("03/x")
    artifacts.put("09/x", DATA, sha256(DATA))
    seen += [found.key for found in listing]
    assert seen == sorted(seen)
    assert set(seen) >= {f"0{number}/x" for number in (0, 1, 2, 4, 5)}


def test_of_many_writers_of_one_key_one_succeeds(artifacts: Artifacts) -> None:
    bodies = [DATA + bytes([number]) for number in range(8)]

    def write(body: bytes) -> bool:
        try:
            artifacts.put(KEY, body, sha256(body))
        except ArtifactLost:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        stored = [body for body, won in zip(bodies, pool.map(write, bodies), strict=True) if won]
    assert len(stored) == 1
    assert artifacts.get(KEY, sha256(stored[0])) == stored[0]


def test_a_working_store_passes_its_check_which_writes_nothing(artifacts: Artifacts, tmp_path: Path) -> None:
    artifacts.check()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
