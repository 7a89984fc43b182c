"""Snapshots of the task index: what a restart loads from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from tests.support.indexes import fill
from tests.support.registrations import EMBEDDER, deleted, embedding
from vlibrary.adapters.index.build import IndexLimits
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.snapshots.folder import FolderSnapshots
from vlibrary.domain.changes import LogPosition

TINY = IndexLimits(exact=40, merged=16)


@pytest.fixture
def snapshots(tmp_path: Path) -> FolderSnapshots:
    return FolderSnapshots(tmp_path / "snapshots")


@pytest.fixture
def index() -> FaissIndex:
    empty = FaissIndex(EMBEDDER, TINY)
    empty.reset("epoch", replacing=empty.position)
    return empty


def test_a_restart_resumes_from_the_snapshot(index: FaissIndex, snapshots: FolderSnapshots) -> None:
    fill(index, 100)
    index.compact()
    fill(index, 5, after=100)
    index.apply([deleted(106, "v3"), deleted(107, "v104")])
    assert index.save(snapshots) == LogPosition("epoch", 107)
    again = FaissIndex(EMBEDDER, TINY)
    assert again.load(snapshots, "epoch") == again.position == LogPosition("epoch", 107)
    query = embedding(np.random.default_rng(9))
    assert again.search(query, model="m", k=500) == index.search(query, model="m", k=500)
    fill(again, 50, after=107)
    while again.compact():
        pass
    assert len(again.search(query, model="m", k=500)) == 153


@pytest.mark.parametrize("other", ["epoch", "embedder", "flipped bit"])
def test_an_unsuitable_or_damaged_snapshot_is_ignored(
    index: FaissIndex, snapshots: FolderSnapshots, other: str
) -> None:
    fill(index, 10)
    index.save(snapshots)
    spec = EMBEDDER if other != "embedder" else replace(EMBEDDER, fingerprint="f" * 64)
    if other == "flipped bit":
        (path,) = snapshots.folders()[0].glob("*.flat")
        data = bytearray(path.read_bytes())
        data[-1] ^= 4
        path.write_bytes(data)
    again = FaissIndex(spec, TINY)
    assert again.load(snapshots, "another" if other == "epoch" else "epoch") is None
    assert again.position is None


def test_a_snapshot_with_rows_of_another_length_is_ignored(index: FaissIndex, snapshots: FolderSnapshots) -> None:
    fill(index, 10)
    index.save(snapshots)
    again = FaissIndex(replace(EMBEDDER, text_size=EMBEDDER.text_size + 1), TINY)
    with capture_logs() as logs:
        assert again.load(snapshots, "epoch") is None
    assert "10 rows of 11 numbers" in logs[0]["reason"]


def test_a_merged_segment_is_written_once(index: FaissIndex, snapshots: FolderSnapshots) -> None:
    fill(index, 100)
    index.compact()
    index.save(snapshots)
    fill(index, 3, after=100)
    index.save(snapshots)
    main = index.state.models["m"].main
    assert main is not None
    newer, older = snapshots.folders()
    assert (newer / f"{main.name}.flat").samefile(older / f"{main.name}.flat")


def test_an_index_without_a_position_is_not_saved(snapshots: FolderSnapshots) -> None:
    assert FaissIndex(EMBEDDER).save(snapshots) is None
    assert snapshots.folders() == []
