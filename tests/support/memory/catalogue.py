"""The catalogue's real in-memory twin: the same contract, nothing kept. For tests, trials and throw-away services."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from vlibrary.adapters.clock import SystemClock
from vlibrary.domain.card import Status, VectorRecord
from vlibrary.domain.epochs import RENEWED, renewal
from vlibrary.domain.filters import EVERYTHING_ACTIVE
from vlibrary.domain.labels import check_alias
from vlibrary.domain.ports import (
    ANONYMOUS,
    Alias,
    Amendment,
    AuditEntry,
    Change,
    ChangeKind,
    Clock,
    Filter,
    Page,
    Position,
    Upload,
)
from vlibrary.domain.registry_rules import (
    alias_not_found,
    amended,
    amendment,
    check_alias_expected,
    check_deleted,
    check_own,
    check_revision,
    check_unaliased,
    check_used_key,
    no_version,
    publication,
    published_as,
    removal,
    step,
    upload_expired,
    upload_replaced,
    vector_exists,
    vector_not_found,
    vector_purged,
    was_rekeyed,
)
from vlibrary.formats.cursor import decode_cursor, encode_cursor


@dataclass(frozen=True)
class _Reservation:
    upload: Upload
    published: bool


@dataclass(frozen=True)
class _Entry:
    kind: ChangeKind
    vector_id: str
    at: datetime
    mark: str


def _clash(one: Upload, other: Upload) -> bool:
    return one.vector_id == other.vector_id or one.object_key == other.object_key


class MemoryCatalogue:
    """ports.Catalogue; every method holds one lock."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._epoch = uuid.uuid4().hex
        self._uploads: dict[str, _Reservation] = {}
        self._records: dict[str, VectorRecord] = {}
        self._newest: dict[str, int] = {}
        self._aliases: dict[tuple[str, str], Alias] = {}
        self._log: list[_Entry] = []
        self._audit: list[AuditEntry] = []

    def reserve(self, upload: Upload) -> VectorRecord | None:
        with self._lock:
            known = self._uploads.get(upload.idempotency_key)
            if known is not None and (known.published or known.upload.deadline > self._clock.now()):
                check_used_key(upload, known.upload, published=known.published)
                if known.published:
                    return self._made_by(upload, known.upload.vector_id)
            now = self._clock.now()
            for key, one in list(self._uploads.items()):
                if key == upload.idempotency_key or not _clash(one.upload, upload):
                    continue
                if one.published or one.upload.deadline > now:
                    raise vector_exists(upload)
                del self._uploads[key]
            self._uploads[upload.idempotency_key] = _Reservation(upload, published=False)
            return None

    def publish(self, upload: Upload, record: VectorRecord, *, actor: str = ANONYMOUS) -> VectorRecord:
        with self._lock:
            known = self._uploads.get(upload.idempotency_key)
            if known is None or known.upload.vector_id != upload.vector_id:
                raise upload_expired(upload)
            if known.published:
                check_own(upload, known.upload)
                return self._made_by(upload, upload.vector_id)
            if known.upload.object_key != upload.object_key:
                raise upload_replaced(upload)
            now = self._clock.now()
            if known.upload.deadline <= now:
                raise upload_expired(upload)
            self._uploads[upload.idempotency_key] = _Reservation(known.upload, published=True)
            version = self._newest[record.name] = self._newest.get(record.name, 0) + 1
            seq = self._append(ChangeKind.PUBLISHED, record.id)
            placed = self._records[record.id] = published_as(record, version=version, created_at=now, seq=seq)
            self._note(actor, "vector.publish", record.id, publication(placed))
            return placed

    def release(self, upload: Upload) -> None:
        with self._lock:
            known = self._uploads.get(upload.idempotency_key)
            if known is not None and known.upload.object_key == upload.object_key and not known.published:
                del self._uploads[upload.idempotency_key]

    def references(self, object_keys: Collection[str], *, purged_within: timedelta = timedelta(0)) -> frozenset[str]:
        with self._lock:
            now = self._clock.now()
            purged = {
                one.vector_id for one in self._log if one.kind is ChangeKind.PURGED and one.at > now - purged_within
            }
            kept = {record.object_key for record in self._records.values()}
            open_still = {
                one.upload.object_key
                for one in self._uploads.values()
                if (not one.published and one.upload.deadline > now) or one.upload.vector_id in purged
            }
            return frozenset(object_keys) & (kept | open_still)

    def now(self) -> datetime:
        return self._clock.now()

    def stuck_uploads(self, limit: int) -> list[Upload]:
        with self._lock:
            now = self._clock.now()
            late = [one.upload for one in self._uploads.values() if not one.published and one.upload.deadline <= now]
        return sorted(late, key=lambda upload: (upload.deadline, upload.vector_id))[:limit]

    def get(self, vector_id: str, *, deleted: bool = False) -> VectorRecord:
        with self._lock:
            record = self._records.get(vector_id)
        if record is None or (record.status is Status.DELETED and not deleted):
            raise vector_not_found(vector_id)
        return record

    def get_many(self, vector_ids: Sequence[str]) -> list[VectorRecord]:
        with self._lock:
            found = [self._records[vector_id] for vector_id in vector_ids if vector_id in self._records]
        active = [record for record in found if record.status is Status.ACTIVE]
        return [replace(record, card=replace(record.card, keys=())) for record in active]

    def page(self, which: Filter = EVERYTHING_ACTIVE, *, limit: int, cursor: str | None = None) -> Page:
        before = None if cursor is None else decode_cursor(cursor)
        passing = [record for record in self._passing(which) if before is None or record.seq < before]
        newest_first = sorted(passing, key=lambda record: -record.seq)
        more = len(newest_first) > limit
        return Page(tuple(newest_first[:limit]), next=encode_cursor(newest_first[limit - 1].seq) if more else None)

    def ids(self, which: Filter) -> frozenset[str]:
        return frozenset(record.id for record in self._passing(which))

    def update(
        self, vector_id: str, change: Amendment, *, expected_revision: int | None = None, actor: str = ANONYMOUS
    ) -> tuple[VectorRecord, int]:
        with self._lock:
            before = self.get(vector_id)
            check_revision(f"Vector {vector_id}", before.revision, expected_revision)
            after = self._records[vector_id] = amended(before, change)
            self._note(actor, "vector.update", vector_id, amendment(before.card, after))
            if was_rekeyed(before, after):
                self._append(ChangeKind.REKEYED, vector_id)
            return after, len(self._log)

    def delete(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        with self._lock:
            record = self.get(vector_id)
            check_revision(f"Vector {vector_id}", record.revision, expected_revision)
            pointing = [alias for alias in self._aliases.values() if alias.vector_id == vector_id]
            check_unaliased(vector_id, (f"{alias.name}@{alias.alias}" for alias in pointing))
            gone = replace(record, status=Status.DELETED, deleted_at=self._clock.now())
            return self._step(gone, "vector.delete", ChangeKind.DELETED, actor)

    def restore(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        with self._lock:
            back = replace(self._deleted(vector_id, expected_revision), status=Status.ACTIVE, deleted_at=None)
            return self._step(back, "vector.restore", ChangeKind.RESTORED, actor)

    def purge(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        with self._lock:
            record = self._deleted(vector_id, expected_revision)
            del self._records[vector_id]
            self._note(actor, "vector.purge", vector_id, removal(record))
            return self._append(ChangeKind.PURGED, vector_id)

    def alias(self, name: str, alias: str) -> Alias:
        with self._lock:
            found = self._aliases.get((name, alias))
        if found is None:
            raise alias_not_found(name, alias)
        return found

    def aliases(self, name: str | None = None) -> list[Alias]:
        with self._lock:
            return [alias for _, alias in sorted(self._aliases.items()) if name in (None, alias.name)]

    def set_alias(self, name: str, alias: str, vector_id: str, *, expected: int, actor: str = ANONYMOUS) -> Alias:
        check_alias(alias)
        with self._lock:
            found = self._records.get(vector_id)
            if found is None or found.status is not Status.ACTIVE or found.name != name:
                raise no_version(vector_id, name)
            old = self._aliases.get((name, alias))
            check_alias_expected(name, alias, old.revision if old else 0, expected)
            detail = {"vector_id": vector_id, "before": old.vector_id if old else None}
            revision = self._note(actor, "alias.set", f"{name}@{alias}", detail)
            new = self._aliases[name, alias] = Alias(name, alias, vector_id, revision, self._clock.now())
            return new

    def drop_alias(self, name: str, alias: str, *, expected: int, actor: str = ANONYMOUS) -> None:
        with self._lock:
            found = self.alias(name, alias)
            check_revision(f"The alias {name}@{alias}", found.revision, expected)
            self._note(actor, "alias.drop", f"{name}@{alias}", {"vector_id": found.vector_id})
            del self._aliases[name, alias]

    def position(self) -> Position:
        with self._lock:
            return Position(self._epoch, len(self._log), self._log[-1].mark if self._log else "")

    def changes(self, after: int, limit: int) -> list[Change]:
        with self._lock:
            first = max(after, 0)
            entries = enumerate(self._log[first:][:limit], first + 1)
            return [self._change(seq, entry) for seq, entry in entries]

    def renew_epoch(self, *, replacing: str | None = None, actor: str = ANONYMOUS) -> Position:
        with self._lock:
            if replacing not in (None, self._epoch):
                return self.position()
            old, self._epoch = self._epoch, uuid.uuid4().hex
            self._note(actor, RENEWED, self._epoch, renewal(old, len(self._log)))
            return self.position()

    def audit(self, after: int, limit: int) -> list[AuditEntry]:
        with self._lock:
            return self._audit[max(after, 0) :][:limit]

    def note(self, action: str, subject: str, detail: Mapping[str, Any], *, actor: str) -> None:
        with self._lock:
            self._note(actor, action, subject, detail)

    def _passing(self, which: Filter) -> list[VectorRecord]:
        with self._lock:
            return [record for record in self._records.values() if which.allows(record)]

    def _made_by(self, upload: Upload, vector_id: str) -> VectorRecord:
        record = self._records.get(vector_id)
        if record is None:
            raise vector_purged(upload, vector_id)
        return record

    def _deleted(self, vector_id: str, expected: int | None) -> VectorRecord:
        record = self.get(vector_id, deleted=True)
        check_deleted(vector_id, record.status)
        check_revision(f"Vector {vector_id}", record.revision, expected)
        return record

    def _step(self, record: VectorRecord, action: str, kind: ChangeKind, actor: str) -> int:
        record = self._records[record.id] = replace(record, revision=record.revision + 1)
        self._note(actor, action, record.id, step(record))
        return self._append(kind, record.id)

    def _change(self, seq: int, entry: _Entry) -> Change:
        record = self._records.get(entry.vector_id)
        if record is None or not entry.kind.findable:
            return Change(seq, entry.kind, entry.vector_id, mark=entry.mark)
        card = record.card
        return Change(seq, entry.kind, record.id, record.model.fingerprint, card.keys, card.embedder, entry.mark)

    def _append(self, kind: ChangeKind, vector_id: str) -> int:
        self._log.append(_Entry(kind, vector_id, self._clock.now(), uuid.uuid4().hex))
        return len(self._log)

    def _note(self, actor: str, action: str, subject: str, detail: Mapping[str, Any]) -> int:
        seq = len(self._audit) + 1
        self._audit.append(AuditEntry(seq, self._clock.now(), actor, action, subject, dict(detail)))
        return seq
