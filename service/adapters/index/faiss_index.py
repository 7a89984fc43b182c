"""The task index on FAISS: readers never wait, and neither do those who apply changes.

All that a search sees is one immutable state behind one reference. Applying a batch makes the next state: new keys in
a small segment beside the large one, the dead marked in a copy. Merging into a large segment takes seconds to minutes
and is done by `compact`, in a thread of its own (index_upkeep.py), on a state that was sealed for it.

FAISS proposes candidates; their scores are computed once more by domain.query.score. So equal keys score equal to the
last bit wherever they lie, and a score never depends on how FAISS sums.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from vlibrary.adapters.index.build import Kinds, build
from vlibrary.adapters.index.model_index import Shelf
from vlibrary.adapters.index.segment import Segment
from vlibrary.domain.ports import Change, Hit, Position
from vlibrary.domain.query import EmbedderSpec, TaskEmbedding, score
from vlibrary.domain.ranking import best_hits, comparable_keys, finite_row, follow, latest
from vlibrary.domain.vector import Array


@dataclass(frozen=True, eq=False)
class IndexState:
    """What searches see: one reference to it is one moment. shelves: by model id."""

    position: Position | None = None
    shelves: Mapping[str, Shelf] = field(default_factory=dict)


class FaissIndex:
    """ports.TaskIndex for the keys of one embedder. Exact up to kinds.exact keys of a model."""

    def __init__(self, spec: EmbedderSpec, kinds: Kinds | None = None) -> None:
        self.spec = spec
        self._kinds = kinds or Kinds()
        self._applying = threading.Lock()
        self._compacting = threading.Lock()
        self._state = IndexState()

    @property
    def position(self) -> Position | None:
        return self._state.position

    @property
    def state(self) -> IndexState:
        """Everything, as it is at this moment; for snapshots."""
        return self._state

    def restore(self, state: IndexState) -> None:
        """Go on from the state of a snapshot."""
        with self._applying:
            self._state = state

    def reset(self, epoch: str, *, replacing: Position | None) -> None:
        with self._applying:
            if self._state.position == replacing:
                self._state = IndexState(Position(epoch, 0))

    def apply(self, changes: Sequence[Change]) -> None:
        with self._applying:
            position, fresh = follow(self._state.position, changes)
            last = latest(fresh)
            shelves = {model_id: shelf.without(last, self._kinds) for model_id, shelf in self._state.shelves.items()}
            for model_id, segment in self._segments(last.values()).items():
                shelves[model_id] = shelves.get(model_id, Shelf()).plus(segment, self._kinds)
            self._state = IndexState(position, shelves)

    def search(self, query: TaskEmbedding, *, model_id: str, k: int, among: frozenset[str] | None = None) -> list[Hit]:
        row = finite_row(query, self.spec)
        shelf = self._state.shelves.get(model_id)
        if shelf is None or k < 1 or (among is not None and not among):
            return []
        found = (pair for segment in shelf.segments for pair in segment.candidates(row, k, among))
        return best_hits(((owner, score(query, self._key(key_row), self.spec)) for owner, key_row in found), k)

    def compact(self, stop: threading.Event | None = None) -> bool:
        """Merge the keys of one model that want it into one segment; whether there was one.

        Searches and `apply` go on meanwhile. Raises Stopped when stop is set.
        """
        with self._compacting:
            sealed = self._seal()
            if sealed is None:
                return False
            model_id, shelf = sealed
            try:
                built = build(shelf.segments, self._kinds, self.spec.image_size, stop or threading.Event())
            except BaseException:
                self._replace(model_id, lambda now: now.unseal())
                raise
            self._replace(model_id, lambda now: now.merged(shelf, built) or now)
            return True

    def _seal(self) -> tuple[str, Shelf] | None:
        with self._applying:
            for model_id, shelf in self._state.shelves.items():
                if shelf.wants_merge(self._kinds):
                    sealed = shelf.seal()
                    self._swap(model_id, sealed)
                    return model_id, sealed
        return None

    def _replace(self, model_id: str, change: Callable[[Shelf], Shelf]) -> None:
        """Change one shelf as it is now, if there is one."""
        with self._applying:
            shelf = self._state.shelves.get(model_id)
            if shelf is not None:
                self._swap(model_id, change(shelf))

    def _swap(self, model_id: str, shelf: Shelf) -> None:
        self._state = replace(self._state, shelves={**self._state.shelves, model_id: shelf})

    def _segments(self, changes: Iterable[Change]) -> dict[str, Segment]:
        """One new segment for each model that the changes bring keys for."""
        rows: dict[str, dict[str, list[Array]]] = {}
        for change in changes:
            for key in comparable_keys(change, self.spec):
                rows.setdefault(change.model_id, {}).setdefault(change.vector_id, []).append(
                    key.embedding.row(self.spec)
                )
        return {
            model_id: Segment.of(
                list(vectors), [len(keys) for keys in vectors.values()], np.stack(list(chain(*vectors.values())))
            )
            for model_id, vectors in rows.items()
        }

    def _key(self, row: Array) -> TaskEmbedding:
        """The key that the row was made of; a part of zeros scores like a missing one."""
        return TaskEmbedding(image=row[: self.spec.image_size], text=row[self.spec.image_size :])
