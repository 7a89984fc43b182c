"""The task index on FAISS: readers never wait, and neither do those who apply changes.

All that a search sees is one immutable state behind one reference. Applying a batch makes the next state: new keys in
a small segment beside the large one, the dead marked in a copy. Merging into a large segment takes seconds to minutes
and is done by `compact`, in a thread of its own (index_upkeep.py), on a state that was sealed for it.

FAISS proposes candidates; their scores are computed once more by domain.query.score. So equal keys score equal to the
last bit wherever they lie, and a score never depends on how FAISS sums.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import structlog

from vlibrary.adapters.index.build import IndexLimits, build
from vlibrary.adapters.index.model_index import IndexState, ModelIndex
from vlibrary.adapters.index.segment import Segment
from vlibrary.adapters.index.snapshot import snapshot_of, state_of
from vlibrary.domain.changes import Change, LogPosition
from vlibrary.domain.ports.snapshots import IndexChecksum, SnapshotDamaged, Snapshots, SnapshotsUnavailable
from vlibrary.domain.ports.task_index import Hit
from vlibrary.domain.query import EmbedderSpec, TaskEmbedding, score
from vlibrary.domain.ranking import best_hits, comparable_keys, finite_row, follow, latest
from vlibrary.domain.vector import Array

log = structlog.get_logger(__name__)

_DIGEST_BYTES = 8


class FaissIndex:
    """ports.TaskIndex for the keys of one embedder. Exact up to limits.exact keys of a model."""

    def __init__(self, spec: EmbedderSpec, limits: IndexLimits | None = None) -> None:
        self.spec = spec
        self._limits = limits or IndexLimits()
        self._applying = threading.Lock()
        self._compacting = threading.Lock()
        self._state = IndexState()

    @property
    def position(self) -> LogPosition | None:
        return self._state.position

    @property
    def state(self) -> IndexState:
        """Everything, as it is at this moment; for snapshots."""
        return self._state

    def reset(self, epoch: str, *, replacing: LogPosition | None) -> None:
        with self._applying:
            if self._state.position == replacing:
                self._state = IndexState(LogPosition(epoch, 0))

    def apply(self, changes: Sequence[Change]) -> None:
        with self._applying:
            position, fresh = follow(self._state.position, changes)
            last = latest(fresh)
            models = {name: model.without(last, self._limits) for name, model in self._state.models.items()}
            for fingerprint, segment in self._segments(last.values()).items():
                models[fingerprint] = models.get(fingerprint, ModelIndex()).plus(segment, self._limits)
            self._state = IndexState(position, models)

    def search(self, query: TaskEmbedding, *, model: str, k: int, among: frozenset[str] | None = None) -> list[Hit]:
        row = finite_row(query, self.spec)
        keys = self._state.models.get(model)
        if keys is None or k < 1 or (among is not None and not among):
            return []
        found = (pair for segment in keys.segments for pair in segment.candidates(row, k, among))
        return best_hits(((owner, score(query, self._key(key_row), self.spec)) for owner, key_row in found), k)

    def save(self, snapshots: Snapshots) -> LogPosition | None:
        state = self._state
        if state.position is not None:
            snapshots.save(snapshot_of(state, state.position, self.spec))
        return state.position

    def load(self, snapshots: Snapshots, epoch: str) -> LogPosition | None:
        try:
            snapshot = snapshots.newest(epoch, self.spec.fingerprint)
            if snapshot is None:
                return None
            state = state_of(snapshot, self.spec)
        except SnapshotsUnavailable as reason:
            log.warning("snapshots.unavailable", reason=str(reason))
            return None
        except SnapshotDamaged as reason:
            log.warning("snapshots.ignored", reason=str(reason))
            return None
        with self._applying:
            self._state = state
        return snapshot.position

    def checksum(self) -> IndexChecksum:
        state = self._state
        keys = digest = 0
        for fingerprint, model in state.models.items():
            for segment in model.segments:
                for vector_id, row in segment.live_keys():
                    label = f"{fingerprint}\0{vector_id}\0".encode()
                    keys += 1
                    digest += int.from_bytes(hashlib.blake2b(label + row.tobytes(), digest_size=_DIGEST_BYTES).digest())
        return IndexChecksum(state.position, keys, digest % 2 ** (8 * _DIGEST_BYTES))

    def compact(self, stop: threading.Event | None = None) -> bool:
        """Merge the keys of one model that want it into one segment; whether there was one.

        Searches and `apply` go on meanwhile. Raises MergeStopped when stop is set.
        """
        with self._compacting:
            sealed = self._seal()
            if sealed is None:
                return False
            fingerprint, model = sealed
            try:
                built = build(model.segments, self._limits, self.spec.image_size, stop or threading.Event())
            except BaseException:
                self._replace(fingerprint, lambda now: now.unseal())
                raise
            self._replace(fingerprint, lambda now: now.merged(model, built) or now)
            return True

    def _seal(self) -> tuple[str, ModelIndex] | None:
        with self._applying:
            for fingerprint, model in self._state.models.items():
                if model.wants_merge(self._limits):
                    sealed = model.seal()
                    self._swap(fingerprint, sealed)
                    return fingerprint, sealed
        return None

    def _replace(self, fingerprint: str, change: Callable[[ModelIndex], ModelIndex]) -> None:
        """Change one model as it is now, if there is one."""
        with self._applying:
            model = self._state.models.get(fingerprint)
            if model is not None:
                self._swap(fingerprint, change(model))

    def _swap(self, fingerprint: str, model: ModelIndex) -> None:
        self._state = replace(self._state, models={**self._state.models, fingerprint: model})

    def _segments(self, changes: Iterable[Change]) -> dict[str, Segment]:
        """One new segment for each model that the changes bring keys for."""
        rows: dict[str, dict[str, list[Array]]] = {}
        for change in changes:
            for key in comparable_keys(change, self.spec):
                rows.setdefault(change.model, {}).setdefault(change.vector_id, []).append(key.embedding.row(self.spec))
        return {
            fingerprint: Segment.of(
                list(vectors), [len(keys) for keys in vectors.values()], np.stack(list(chain(*vectors.values())))
            )
            for fingerprint, vectors in rows.items()
        }

    def _key(self, row: Array) -> TaskEmbedding:
        """The key that the row was made of; a part of zeros scores like a missing one."""
        return TaskEmbedding(image=row[: self.spec.image_size], text=row[self.spec.image_size :])
