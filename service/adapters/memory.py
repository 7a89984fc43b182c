"""Real in-memory twins of the stores: the same contracts, nothing kept. For tests, trials and throw-away services."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.adapters.clock import SystemClock
from service.adapters.cursor import decode_cursor, encode_cursor
from service.adapters.index_rules import best_hits, comparable, follow
from service.adapters.objects import check_digest, check_key, missing
from service.adapters.upload_rules import check_used_key, upload_expired, vector_not_found
from service.domain.card import Status, TaskKey, VectorRecord
from service.domain.ports import Change, ChangeKind, Clock, Hit, Page, Position, Upload
from service.domain.query import EmbedderSpec, TaskEmbedding, score


@dataclass(frozen=True)
class _Reservation:
    upload: Upload
    published: bool


class MemoryCatalogue:
    """ports.Catalogue; every method holds one lock."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._epoch = uuid.uuid4().hex
        self._uploads: dict[str, _Reservation] = {}
        self._records: dict[str, VectorRecord] = {}
        self._log: list[Change] = []

    def reserve(self, upload: Upload) -> VectorRecord | None:
        with self._lock:
            known = self._uploads.get(upload.idempotency_key)
            if known is not None and (known.published or known.upload.deadline > self._clock.now()):
                check_used_key(upload, request_sha256=known.upload.request_sha256, published=known.published)
                return self._records[known.upload.vector_id]
            self._uploads[upload.idempotency_key] = _Reservation(upload, published=False)
            return None

    def publish(self, upload: Upload, record: VectorRecord) -> VectorRecord:
        with self._lock:
            known = self._uploads.get(upload.idempotency_key)
            if known is None or known.upload.vector_id != upload.vector_id:
                raise upload_expired(upload)
            if known.published:
                return self._records[upload.vector_id]
            now = self._clock.now()
            if known.upload.deadline <= now:
                raise upload_expired(upload)
            version = 1 + max(
                (other.version for other in self._records.values() if other.name == record.name), default=0
            )
            record = replace(record, version=version, created_at=now, seq=len(self._log) + 1, status=Status.ACTIVE)
            self._uploads[upload.idempotency_key] = _Reservation(upload, published=True)
            self._records[record.id] = record
            self._log.append(
                Change(
                    seq=record.seq,
                    kind=ChangeKind.PUBLISHED,
                    vector_id=record.id,
                    model_id=record.model.model_id,
                    keys=record.card.keys,
                    embedder=record.card.embedder,
                )
            )
            return record

    def release(self, upload: Upload) -> None:
        with self._lock:
            known = self._uploads.get(upload.idempotency_key)
            if known is not None and known.upload.vector_id == upload.vector_id and not known.published:
                del self._uploads[upload.idempotency_key]

    def get(self, vector_id: str) -> VectorRecord:
        found = self.get_many([vector_id])
        if not found:
            raise vector_not_found(vector_id)
        return found[0]

    def get_many(self, vector_ids: Sequence[str]) -> list[VectorRecord]:
        with self._lock:
            found = [self._records[vector_id] for vector_id in vector_ids if vector_id in self._records]
        return [record for record in found if record.status is Status.ACTIVE]

    def page(self, *, name: str | None, model_id: str | None, limit: int, cursor: str | None) -> Page:
        before = None if cursor is None else decode_cursor(cursor)
        with self._lock:
            newest_first = sorted(self._records.values(), key=lambda record: -record.seq)
        records = [
            record
            for record in newest_first
            if record.status is Status.ACTIVE
            and name in (None, record.name)
            and model_id in (None, record.model.model_id)
            and (before is None or record.seq < before)
        ]
        more = len(records) > limit
        return Page(tuple(records[:limit]), next=encode_cursor(records[limit - 1].seq) if more else None)

    def delete(self, vector_id: str) -> int:
        with self._lock:
            record = self._records.get(vector_id)
            if record is None or record.status is not Status.ACTIVE:
                raise vector_not_found(vector_id)
            self._records[vector_id] = replace(record, status=Status.DELETED)
            self._log.append(Change(seq=len(self._log) + 1, kind=ChangeKind.DELETED, vector_id=vector_id))
            return len(self._log)

    def position(self) -> Position:
        with self._lock:
            return Position(self._epoch, len(self._log))

    def changes(self, after: int, limit: int) -> list[Change]:
        with self._lock:
            return self._log[max(after, 0) :][:limit]


class MemoryArtifacts:
    """ports.Artifacts in a dictionary."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def put(self, key: str, data: bytes, sha256: str) -> None:
        check_key(key)
        check_digest(key, data, sha256)
        check_digest(key, self._objects.setdefault(key, data), sha256)  # setdefault: the first of two writers stays

    def get(self, key: str, sha256: str) -> bytes:
        check_key(key)
        if (data := self._objects.get(key)) is None:
            raise missing(key)
        check_digest(key, data, sha256)
        return data

    def delete(self, key: str) -> None:
        check_key(key)
        self._objects.pop(key, None)

    def check(self) -> None:
        """A dictionary is always there."""


@dataclass(frozen=True)
class _IndexState:
    position: Position | None
    keys: dict[str, tuple[str, tuple[TaskKey, ...]]]  # by vector: its model's id and its keys


class MemoryIndex:
    """ports.TaskIndex that scores every key one by one: slow, and plainly right."""

    def __init__(self, spec: EmbedderSpec) -> None:
        self._spec = spec
        self._applying = threading.Lock()
        self._state = _IndexState(None, {})

    @property
    def position(self) -> Position | None:
        return self._state.position

    def reset(self, epoch: str) -> None:
        with self._applying:
            self._state = _IndexState(Position(epoch, 0), {})

    def apply(self, changes: Sequence[Change]) -> None:
        with self._applying:
            position, fresh = follow(self._state.position, changes)
            keys = dict(self._state.keys)
            for change in fresh:
                if change.kind is ChangeKind.DELETED:
                    keys.pop(change.vector_id, None)
                elif comparable(change, self._spec):
                    keys[change.vector_id] = (change.model_id, change.keys)
            self._state = _IndexState(position, keys)

    def search(self, query: TaskEmbedding, *, model_id: str, k: int) -> list[Hit]:
        return best_hits(
            (
                (vector_id, score(query, key.embedding, self._spec))
                for vector_id, (owner_model, keys) in self._state.keys.items()
                if owner_model == model_id
                for key in keys
            ),
            k,
        )
