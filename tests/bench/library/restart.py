"""A restart from a snapshot in a new process: its duration and the index's memory afterwards."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np

from tests.bench.library.keys import KEYS, MODEL, SPEC, Tasks, changes
from tests.bench.spread import seconds
from vlibrary.adapters.index.build import IndexLimits
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.snapshots.folder import FolderSnapshots
from vlibrary.domain.vector import Array

EPOCH = "bench"
PAIRS = 3


def save_index(keys: int, limits: IndexLimits, folder: Path) -> None:
    """Save a snapshot of an index with `keys` keys."""
    rng = np.random.default_rng(1)
    index = FaissIndex(SPEC, limits)
    index.reset(EPOCH, replacing=index.position)
    for batch in changes(Tasks.random(keys // KEYS, rng), rng):
        index.apply(batch)
    while index.compact():
        pass
    index.save(FolderSnapshots(folder))


def restart(folder: Path) -> dict[str, float]:
    """Measure restart_ratio (loading ÷ reading the files from disk) and memory_ratio (resident bytes ÷ file size).

    Memory is measured after every key was read once: right after loading, most of the files are not in memory yet.
    """
    runs = [_in_process(folder) for _ in range(PAIRS)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def _in_process(folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.library.restart", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main(folder: Path) -> None:
    """Restart once and print the figures as JSON."""
    files = [path for path in FolderSnapshots(folder).folders()[0].iterdir() if path.is_file()]
    _drop(files)
    reading = seconds(lambda: [path.read_bytes() for path in files])
    _drop(files)
    before = _resident()
    index = FaissIndex(SPEC)
    loading = seconds(lambda: index.load(FolderSnapshots(folder), EPOCH))
    query = Tasks.random(1, np.random.default_rng(3)).queries(1, np.random.default_rng(4))[0]
    assert len(index.search(query, model=MODEL, k=10)) == 10
    size = sum(path.stat().st_size for path in files)
    held_at_first = _resident() - before
    _read_all(index, query.row(SPEC))
    figures = {
        "restart_ratio": loading / reading,
        "memory_ratio": (_resident() - before) / size,
        "memory_at_first_ratio": held_at_first / size,
        "restart_s": loading,
        "snapshot_mb": size / 2**20,
    }
    print(json.dumps(figures))


def _read_all(index: FaissIndex, row: Array) -> None:
    """Compare the row with every key, and search every list."""
    for model in index.state.models.values():
        for segment in model.segments:
            segment.search_exact(row, 10, None)
            if segment.lists is not None:
                everywhere = faiss.IVFSearchParameters(nprobe=segment.lists.nlist)
                segment.lists.search(row[None], 10, params=everywhere)


def _drop(files: list[Path]) -> None:
    """Drop the files from the page cache, as after a reboot."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _resident() -> int:
    """Return the resident bytes of this process, mapped files included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
