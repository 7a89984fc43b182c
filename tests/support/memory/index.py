"""The task index's in-memory twin."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from vlibrary.domain.card import TaskKey
from vlibrary.domain.changes import Change, LogPosition
from vlibrary.domain.ports.task_index import Hit
from vlibrary.domain.query import EmbedderSpec, TaskEmbedding, score
from vlibrary.domain.ranking import best_hits, comparable_keys, finite_row, follow


@dataclass(frozen=True)
class _IndexState:
    position: LogPosition | None
    keys: dict[str, tuple[str, tuple[TaskKey, ...]]]  # by vector: its model's id and its keys


class MemoryIndex:
    """ports.TaskIndex that scores every key one by one: slow, and plainly right."""

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
            position, fresh = follow(self._state.position, changes)
            keys = dict(self._state.keys)
            for change in fresh:
                keys[change.vector_id] = (change.model, tuple(comparable_keys(change, self._spec)))
            self._state = _IndexState(position, keys)

    def search(self, query: TaskEmbedding, *, model: str, k: int, among: frozenset[str] | None = None) -> list[Hit]:
        finite_row(query, self._spec)
        return best_hits(
            (
                (vector_id, score(query, key.embedding, self._spec))
                for vector_id, (owner_model, keys) in self._state.keys.items()
                if owner_model == model and (among is None or vector_id in among)
                for key in keys
            ),
            k,
        )
