"""The kinds of task index that the contract suites run on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from service.adapters.index_faiss import FaissIndex
from service.adapters.index_kinds import Kinds
from service.adapters.index_snapshot import load, save
from service.adapters.memory_index import MemoryIndex
from service.adapters.snapshots_folder import FolderSnapshots
from service.domain.ports import Change, TaskIndex
from service.domain.query import EmbedderSpec

TINY_EXACT = Kinds(merged=16)
TINY_LISTS = Kinds(exact=32, merged=16)


class MergedIndex(FaissIndex):
    """Merges whatever wants it straight after every change."""

    def apply(self, changes: Sequence[Change]) -> None:
        super().apply(changes)
        while self.compact():
            pass


class RestartedIndex(MergedIndex):
    """Goes on from a snapshot of itself after every change."""

    def apply(self, changes: Sequence[Change]) -> None:
        super().apply(changes)
        if self.position is not None:
            with tempfile.TemporaryDirectory() as folder:
                save(self, FolderSnapshots(Path(folder)))
                assert load(self, FolderSnapshots(Path(folder)), self.position.epoch) == self.position


Make = Callable[[EmbedderSpec], TaskIndex]

EXACT: dict[str, Make] = {
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
