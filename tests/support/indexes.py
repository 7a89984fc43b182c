"""The task indexes that the contract suites run on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.support.memory.index import MemoryIndex
from tests.support.registrations import embedding, published
from vlibrary.adapters.index.build import IndexLimits
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.index.late_index import LateIndex
from vlibrary.adapters.snapshots.folder import FolderSnapshots
from vlibrary.domain.changes import Change
from vlibrary.domain.ports.task_index import TaskIndex
from vlibrary.domain.query import EmbedderSpec

TINY_EXACT = IndexLimits(merged=16)
TINY_LISTS = IndexLimits(exact=32, merged=16)


class MergedIndex(FaissIndex):
    """Merges after every change."""

    def apply(self, changes: Sequence[Change]) -> None:
        super().apply(changes)
        while self.compact():
            pass


class RestartedIndex(MergedIndex):
    """Saves and loads a snapshot after every change."""

    def apply(self, changes: Sequence[Change]) -> None:
        super().apply(changes)
        if self.position is not None:
            with tempfile.TemporaryDirectory() as folder:
                self.save(FolderSnapshots(Path(folder)))
                assert self.load(FolderSnapshots(Path(folder)), self.position.epoch) == self.position


def fill(index: TaskIndex, count: int, *, after: int = 0) -> None:
    """Apply this many published vectors, with the sequence numbers that follow `after`."""
    rng = np.random.default_rng(after)
    index.apply([published(after + n, f"v{after + n}", embedding(rng)) for n in range(1, count + 1)])


Make = Callable[[EmbedderSpec], TaskIndex]


def late(spec: EmbedderSpec) -> LateIndex:
    """Return an index whose embedder has become known."""
    index = LateIndex()
    index.open(FaissIndex(spec))
    return index


EXACT: dict[str, Make] = {
    "late": late,
    "memory": MemoryIndex,
    "exact": FaissIndex,
    "exact, merged": lambda spec: MergedIndex(spec, TINY_EXACT),
    "exact, restarted": lambda spec: RestartedIndex(spec, TINY_EXACT),
}
NEAR: dict[str, Make] = {
    "lists": lambda spec: MergedIndex(spec, TINY_LISTS),
    "lists, restarted": lambda spec: RestartedIndex(spec, TINY_LISTS),
}
ALL = EXACT | NEAR
