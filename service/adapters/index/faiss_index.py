"""The task index on FAISS. Neither searches nor `apply` wait for each other or for merges.

A search reads one immutable state through one reference. Applying a batch creates the next state: new keys go into a
small segment, and dead vectors are flagged in a copy. Merging into a large segment takes seconds to minutes; `compact`
does it in a background thread, on segments that were sealed for it.

FAISS proposes candidates, and domain.query.score computes their scores. So equal keys have equal scores, bit by bit, in
whichever segment they are, and a score does not depend on the order in which FAISS adds.
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
from vlibrary.adapters.index.segment import Members, Segment
from vlibrary.adapters.index.snapshot import from_snapshot, to_draft
from vlibrary.domain.card import TaskKey
from vlibrary.domain.changes import Change, LogPosition
from vlibrary.domain.ports.snapshots import IndexChecksum, SnapshotDamaged, Snapshots, SnapshotsUnavailable
from vlibrary.domain.ports.task_index import Hit
from vlibrary.domain.query import EmbedderSpec, TaskEmbedding, score
from vlibrary.domain.ranking import best_hits, comparable_keys, finite_row, new_changes

log = structlog.get_logger(__name__)

DIGEST_BYTES = 8


class FaissIndex:
    """ports.PersistentIndex for the keys of one embedder; exact up to limits.exact keys per model."""

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
        """The current state, which is immutable."""
        return self._state

    def reset(self, epoch: str, *, replacing: LogPosition | None) -> None:
        with self._applying:
            if self._state.position == replacing:
                self._state = IndexState(LogPosition(epoch, 0))

    def apply(self, changes: Sequence[Change]) -> None:
        with self._applying:
            position, new = new_changes(self._state.position, changes)
            last = {change.vector_id: change for change in new}  # replaces what was known of the vector
            models = {key: model.without(last, self._limits) for key, model in self._state.models.items()}
            for fingerprint, segment in self._new_segments(last.values()).items():
                models[fingerprint] = models.get(fingerprint, ModelIndex()).add(segment, self._limits)
            self._state = IndexState(position, models)

    def search(self, query: TaskEmbedding, *, model: str, k: int, among: frozenset[str] | None = None) -> list[Hit]:
        row = finite_row(query, self.spec)
        index = self._state.models.get(model)
        if index is None or k < 1 or (among is not None and not among):
            return []
        candidates = chain.from_iterable(segment.candidates(row, k, among) for segment in index.segments)
        size = self.spec.image_size
        hits = best_hits(
            (
                (vector_id, registered, score(query, TaskEmbedding(image=key[:size], text=key[size:]), self.spec))
                for vector_id, registered, key in candidates
            ),
            k,
        )
        return [replace(hit, keys=index.rows_of(hit.vector_id)) for hit in hits]

    def save(self, snapshots: Snapshots) -> LogPosition | None:
        state = self._state
        if state.position is not None:
            snapshots.save(to_draft(state, state.position, self.spec))
        return state.position

    def load(self, snapshots: Snapshots, epoch: str) -> LogPosition | None:
        try:
            snapshot = snapshots.newest(epoch, self.spec.fingerprint)
            if snapshot is None:
                return None
            state = from_snapshot(snapshot, self.spec)
        except SnapshotsUnavailable as reason:
            log.warning("snapshots.unavailable", reason=str(reason))
            return None
        except SnapshotDamaged as reason:
            log.warning("snapshots.ignored", reason=str(reason))
            return None
        with self._applying:
            self._state = state
        return state.position

    def checksum(self) -> IndexChecksum:
        state = self._state
        keys = digest = 0
        for fingerprint, model in state.models.items():
            for segment in model.segments:
                members = segment.live_members
                owners = np.repeat(np.array(members.ids, object), members.counts)
                for vector_id, row in zip(owners, chain.from_iterable(segment.live_rows()), strict=True):
                    content = f"{fingerprint}\0{vector_id}\0".encode() + row.tobytes()
                    keys += 1
                    digest += int.from_bytes(hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest())
        return IndexChecksum(state.position, keys, digest % 2 ** (8 * DIGEST_BYTES))

    def compact(self, stop: threading.Event | None = None) -> bool:
        with self._compacting:
            sealed = self._seal()
            if sealed is None:
                return False
            fingerprint, model = sealed
            try:
                built = build(model.segments, self._limits, self.spec.image_size, stop or threading.Event())
            except BaseException:
                self._update(fingerprint, lambda now: now.unseal())
                raise
            self._update(fingerprint, lambda now: now.complete_merge(model, built))
            return True

    def _seal(self) -> tuple[str, ModelIndex] | None:
        """Seal the segments of a model that needs a merge."""
        with self._applying:
            for fingerprint, model in self._state.models.items():
                if model.needs_merge(self._limits):
                    sealed = model.seal()
                    self._replace(fingerprint, sealed)
                    return fingerprint, sealed
        return None

    def _update(self, fingerprint: str, change: Callable[[ModelIndex], ModelIndex]) -> None:
        """Change the index of a model, unless a reset has removed it."""
        with self._applying:
            model = self._state.models.get(fingerprint)
            if model is not None:
                self._replace(fingerprint, change(model))

    def _replace(self, fingerprint: str, model: ModelIndex) -> None:
        self._state = replace(self._state, models={**self._state.models, fingerprint: model})

    def _new_segments(self, changes: Iterable[Change]) -> dict[str, Segment]:
        """Return a segment with the changes' keys for each model that has some."""
        found: dict[str, list[tuple[Change, list[TaskKey]]]] = {}
        for change in changes:
            if keys := comparable_keys(change, self.spec):
                found.setdefault(change.model, []).append((change, keys))
        return {
            fingerprint: Segment.from_rows(
                Members(
                    [change.vector_id for change, _ in pairs],
                    np.array([len(keys) for _, keys in pairs], np.int32),
                    np.array([change.registered for change, _ in pairs], np.int64),
                ),
                np.stack([key.embedding.row(self.spec) for _, keys in pairs for key in keys]),
            )
            for fingerprint, pairs in found.items()
        }
