"""The cache of models: each folder is made once, whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlibrary.domain.errors import InvalidInput, ModelUnavailable
from vlibrary.models.model_cache import SUMS, ModelCache, find_damage


def build(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "weights").write_bytes(bytes(1000))


def fail_with(error: BaseException) -> Callable[[Path], None]:
    def build_half(folder: Path) -> None:
        (folder / "weights").write_bytes(b"half")
        raise error

    return build_half


def visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock")


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache")
    assert cache.find("a") is None
    folder = cache.make("a", build, size=0)
    assert cache.find("a") == folder
    assert sorted(path.name for path in folder.iterdir()) == [SUMS, "config.json", "weights"]
    assert find_damage(folder) is None
    assert cache.make("a", fail_with(AssertionError()), size=0) == folder


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (InvalidInput("wrong wheel", "cure"), InvalidInput),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), ModelUnavailable),
        (FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/file.whl"), FileNotFoundError),
    ],
)
def test_a_failed_build_leaves_nothing(tmp_path: Path, error: BaseException, seen: type[BaseException]) -> None:
    cache = ModelCache(tmp_path)
    with pytest.raises(seen):
        cache.make("a", fail_with(error), size=0)
    assert visible(tmp_path) == []
    assert cache.find("a") is None


def test_what_a_killed_process_left_is_deleted(tmp_path: Path) -> None:
    for remains in (".a.new", ".a.old"):
        (tmp_path / remains).mkdir()
        (tmp_path / remains / "weights").write_bytes(b"half")
    ModelCache(tmp_path).make("a", build, size=0)
    assert visible(tmp_path) == ["a"]


def test_two_that_make_the_same_folder_build_it_once(tmp_path: Path) -> None:
    builds: list[Path] = []
    started, waiting = threading.Event(), threading.Event()

    def build_slowly(folder: Path) -> None:
        builds.append(folder)
        started.set()
        assert waiting.wait(10)
        build(folder)

    first = threading.Thread(target=lambda: ModelCache(tmp_path).make("a", build_slowly, size=0))
    first.start()
    assert started.wait(10)
    folder = ModelCache(tmp_path).make("a", build_slowly, size=0, notify=lambda _: waiting.set())
    first.join()
    assert len(builds) == 1
    assert find_damage(folder) is None


@given(name=st.sampled_from([SUMS, "config.json", "weights"]), removed=st.booleans(), at=st.integers(0, 10**6))
def test_any_damage_is_found_and_repaired(
    tmp_path_factory: pytest.TempPathFactory, name: str, removed: bool, at: int
) -> None:
    cache = ModelCache(tmp_path_factory.mktemp("cache"))
    folder = cache.make("a", build, size=0)
    damaged = folder / name
    if removed:
        damaged.unlink()
    else:
        data = bytearray(damaged.read_bytes())
        data[at % len(data)] ^= 0xFF
        damaged.write_bytes(data)
    assert find_damage(folder) == name or name == SUMS
    notices: list[str] = []
    assert find_damage(cache.make("a", build, size=0, notify=notices.append)) is None
    assert ["is missing or damaged" in notice for notice in notices] == [True]
    assert visible(cache.root) == ["a"]


def test_a_folder_without_a_list_of_digests_is_not_found(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    (cache.make("a", build, size=0) / SUMS).unlink()
    assert cache.find("a") is None


def test_an_empty_list_of_digests_is_damage(tmp_path: Path) -> None:
    folder = ModelCache(tmp_path).make("a", build, size=0)
    (folder / SUMS).write_text("")
    assert find_damage(folder) == SUMS


def test_a_whole_folder_is_used_where_nothing_can_be_written(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    folder = cache.make("a", build, size=0)
    (tmp_path / ".a.lock").unlink(missing_ok=True)
    (tmp_path / ".a.lock").mkdir()  # fails for root, too, unlike a folder without write permission
    assert cache.make("a", build, size=0) == folder
    (folder / "weights").unlink()
    with pytest.raises(ModelUnavailable, match="cannot be written"):
        cache.make("a", build, size=0)


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"needs 1000000000000000 MB of free space .* VLIBRARY_CACHE_DIR"):
        ModelCache(tmp_path).make("a", fail_with(AssertionError()), size=10**21)
    assert visible(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ModelUnavailable, match=r"cannot be written.*VLIBRARY_CACHE_DIR"):
        ModelCache(tmp_path / "file").make("a", build, size=0)
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(ModelUnavailable, match="Permission denied"):
            ModelCache(tmp_path / "locked" / "cache").make("a", build, size=0)
