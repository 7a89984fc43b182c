"""The task index on FAISS: exact, with readers that never wait.

Each model's keys lie in segments: flat FAISS indexes that are never changed once built (an add beside a search crashes
the process). A batch of changes builds a new segment, merges it with the small ones before it, and swaps one reference.
Each segment is more than twice as long as the next, so a key is copied a logarithmic number of times while the index
grows, and a search asks few segments.

FAISS proposes candidates; their scores are computed once more by domain.query.score. So equal keys score equal to the
last bit wherever they lie, and a score never depends on how FAISS sums.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import faiss
import numpy as np
import numpy.typing as npt

from service.adapters.index_rules import best_hits, comparable, follow
from service.domain.ports import Change, ChangeKind, Hit, Position
from service.domain.query import EmbedderSpec, TaskEmbedding, score
from service.domain.vector import Array

# Far above what float32 sums of unit vectors can be off (about 1e-6), far below a difference that matters.
MARGIN = 1e-4


@dataclass(frozen=True, eq=False)
class _Segment:
    """Keys that never change. owners: the vector of each row; members: its number of rows; dead: deleted vectors."""

    index: faiss.IndexFlatIP
    owners: Sequence[str]
    members: Mapping[str, int]
    dead: frozenset[str] = frozenset()

    @classmethod
    def of(cls, owners: Sequence[str], rows: Array) -> _Segment:
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(np.ascontiguousarray(rows))
        return cls(index, owners, Counter(owners))

    @property
    def live_rows(self) -> int:
        return len(self.owners) - sum(self.members[vector_id] for vector_id in self.dead)

    def without(self, vector_ids: Iterable[str]) -> _Segment:
        return replace(self, dead=self.dead.union(self.members.keys() & set(vector_ids)))

    def live(self) -> tuple[list[str], Array]:
        """What is left of it: owners and rows."""
        kept = [number for number, owner in enumerate(self.owners) if owner not in self.dead]
        rows: Array = self.index.reconstruct_n(0, len(self.owners))
        return [self.owners[number] for number in kept], rows[kept]

    def candidates(self, row: Array, k: int) -> list[tuple[str, Array]]:
        """Owners and rows among which are the best rows of the segment's k best vectors, ties included.

        One vector may hold many of the best rows, so more are fetched until k vectors lie clearly above the rest.
        """
        fetched = 4 * k
        while True:
            fetched = min(fetched, len(self.owners))
            scores, numbers = (found[0] for found in self.index.search(row[None], fetched))
            least = self._kth_best(scores, numbers, k)
            if fetched == len(self.owners) or least > scores[-1] + MARGIN:
                break
            fetched *= 4
        near = [number for number in numbers[scores >= least - MARGIN] if self.owners[number] not in self.dead]
        if not near:
            return []
        rows = self.index.reconstruct_batch(np.array(near, np.int64))
        return [(self.owners[number], row) for number, row in zip(near, rows, strict=True)]

    def _kth_best(self, scores: Array, numbers: npt.NDArray[np.int64], k: int) -> float:
        """The score of the k-th living vector in this ranking of rows; -inf when there are fewer."""
        seen: set[str] = set()
        for found, number in zip(scores, numbers, strict=True):
            if self.owners[number] not in self.dead:
                seen.add(self.owners[number])
            if len(seen) == k:
                return float(found)
        return -np.inf


@dataclass(frozen=True, eq=False)
class _State:
    """What searches see: one reference to it is one moment. shelves: segments by model id, longest first."""

    position: Position | None = None
    shelves: Mapping[str, tuple[_Segment, ...]] = field(default_factory=dict)


class FaissIndex:
    """ports.TaskIndex for the keys of one embedder."""

    def __init__(self, spec: EmbedderSpec) -> None:
        self._spec = spec
        self._applying = threading.Lock()
        self._state = _State()

    @property
    def position(self) -> Position | None:
        return self._state.position

    def reset(self, epoch: str) -> None:
        with self._applying:
            self._state = _State(Position(epoch, 0))

    def apply(self, changes: Sequence[Change]) -> None:
        with self._applying:
            position, fresh = follow(self._state.position, changes)
            added, removed = _net(fresh)
            shelves = dict(self._state.shelves)
            if removed:
                shelves = {model_id: _compact(shelf, removed) for model_id, shelf in shelves.items()}
            for model_id, changes_of_model in _by_model(added, self._spec).items():
                shelves[model_id] = _put(shelves.get(model_id, ()), self._segment(changes_of_model))
            self._state = _State(position, shelves)

    def search(self, query: TaskEmbedding, *, model_id: str, k: int) -> list[Hit]:
        shelf = self._state.shelves.get(model_id, ())
        if k < 1:
            return []
        row = query.row(self._spec)
        found = (candidate for segment in shelf for candidate in segment.candidates(row, k))
        return best_hits(((owner, score(query, self._key(key_row), self._spec)) for owner, key_row in found), k)

    def _segment(self, changes: Sequence[Change]) -> _Segment:
        owners = [change.vector_id for change in changes for _ in change.keys]
        return _Segment.of(
            owners, np.stack([key.embedding.row(self._spec) for change in changes for key in change.keys])
        )

    def _key(self, row: Array) -> TaskEmbedding:
        """The key that the row was made of; a part of zeros scores like a missing one."""
        return TaskEmbedding(image=row[: self._spec.image_size], text=row[self._spec.image_size :])


def _net(changes: Sequence[Change]) -> tuple[list[Change], set[str]]:
    """What remains of a batch: vectors that it publishes for good, and older ones that it deletes."""
    added: dict[str, Change] = {}
    removed: set[str] = set()
    for change in changes:
        if change.kind is ChangeKind.PUBLISHED:
            added[change.vector_id] = change
        elif added.pop(change.vector_id, None) is None:
            removed.add(change.vector_id)
    return list(added.values()), removed


def _by_model(changes: Sequence[Change], spec: EmbedderSpec) -> dict[str, list[Change]]:
    """The changes that bring keys of this embedder, by model."""
    models: dict[str, list[Change]] = {}
    for change in changes:
        if change.keys and comparable(change, spec):
            models.setdefault(change.model_id, []).append(change)
    return models


def _put(shelf: tuple[_Segment, ...], segment: _Segment) -> tuple[_Segment, ...]:
    """The shelf with one more segment, merged with those before it that are not more than twice as long."""
    while shelf and shelf[-1].live_rows <= 2 * segment.live_rows:
        segment = _merged(shelf[-1], segment)
        shelf = shelf[:-1]
    return (*shelf, segment)


def _compact(shelf: tuple[_Segment, ...], removed: set[str]) -> tuple[_Segment, ...]:
    """The shelf without these vectors; a segment that is half dead is written anew, so dead rows never pile up."""
    compacted: tuple[_Segment, ...] = ()
    for segment in shelf:
        left = segment.without(removed)
        if left.live_rows > len(left.owners) / 2:
            compacted = (*compacted, left)
        elif left.live_rows:
            compacted = _put(compacted, _merged(left))
    return compacted


def _merged(*segments: _Segment) -> _Segment:
    parts = [segment.live() for segment in segments]
    return _Segment.of([owner for owners, _ in parts for owner in owners], np.concatenate([rows for _, rows in parts]))
