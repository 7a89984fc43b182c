"""In-memory task index."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlibrary.domain.changes import Change, LogPosition
from vlibrary.domain.ports.task_index import Hit
from vlibrary.domain.query import EmbedderSpec, TaskEmbedding, score
from vlibrary.domain.ranking import best_hits, comparable_keys, finite_row, new_changes


@dataclass(frozen=True)
class _IndexState:
    position: LogPosition | None
    newest: dict[str, Change]  # by vector


class MemoryIndex:
    """ports.TaskIndex that scores every key; the reference for the FAISS index."""

    def __init__(self, spec: EmbedderSpec) -> None:
        self._spec = spec
        self._applying = threading.Lock()
        self._state = _IndexState(None, {})

    @property
    def position(self) -> LogPosition | None:
        return self._state.position

    def reset(self, epoch: str, *, replacing: LogPosition | None) -> None:
        with self._applying:
            if self._state.position == replacing:
                self._state = _IndexState(LogPosition(epoch, 0), {})

    def apply(self, changes: Sequence[Change]) -> None:
        with self._applying:
            position, new = new_changes(self._state.position, changes)
            self._state = _IndexState(position, self._state.newest | {change.vector_id: change for change in new})

    def search(self, query: TaskEmbedding, *, model: str, k: int, among: frozenset[str] | None = None) -> list[Hit]:
        finite_row(query, self._spec)
        keys = {
            change: comparable_keys(change, self._spec)
            for change in self._state.newest.values()
            if change.model == model and (among is None or change.vector_id in among)
        }
        hits = best_hits(
            (
                (change.vector_id, change.registered, score(query, key.embedding, self._spec))
                for change, found in keys.items()
                for key in found
            ),
            k,
        )
        rows = {
            change.vector_id: np.stack([key.embedding.row(self._spec) for key in found])
            for change, found in keys.items()
            if found
        }
        return [replace(hit, keys=rows[hit.vector_id]) for hit in hits]
