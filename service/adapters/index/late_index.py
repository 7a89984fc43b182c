"""A task index whose embedder is not known before the first worker responds."""

from __future__ import annotations

from collections.abc import Sequence

from vlibrary.domain.changes import Change, LogPosition
from vlibrary.domain.errors import WorkerUnavailable
from vlibrary.domain.ports.task_index import Hit, TaskIndex
from vlibrary.domain.query import TaskEmbedding


class LateIndex:
    """ports.TaskIndex that raises WorkerUnavailable until `open` is called; it then is the opened index."""

    def __init__(self) -> None:
        self._opened: TaskIndex | None = None

    def open(self, index: TaskIndex) -> None:
        """Use this index from now on."""
        self._opened = index

    @property
    def position(self) -> LogPosition | None:
        return None if self._opened is None else self._opened.position

    def reset(self, epoch: str, *, replacing: LogPosition | None) -> None:
        self._index().reset(epoch, replacing=replacing)

    def apply(self, changes: Sequence[Change]) -> None:
        self._index().apply(changes)

    def search(self, query: TaskEmbedding, *, model: str, k: int, among: frozenset[str] | None = None) -> list[Hit]:
        return self._index().search(query, model=model, k=k, among=among)

    def _index(self) -> TaskIndex:
        if self._opened is None:
            raise WorkerUnavailable(
                "The index is empty, because no worker has reported its embedder yet.", "Retry in a moment."
            )
        return self._opened
