"""The reference model of the catalogue, on which the contract suites also run."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from vlibrary.adapters.clock import SystemClock
from vlibrary.domain.card import Status, TaskKey, VectorRecord
from vlibrary.domain.changes import EPOCH_RENEWED, Change, ChangeKind, LogPosition, renewal_detail
from vlibrary.domain.filters import EVERYTHING_ACTIVE, Filter
from vlibrary.domain.ports.aliases import Aliases
from vlibrary.domain.ports.audit_log import AuditLog
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.ports.change_log import ChangeLog
from vlibrary.domain.ports.clock import Clock
from vlibrary.domain.ports.registrations import Registrations
from vlibrary.domain.ports.vectors import Vectors
from vlibrary.domain.registration import ANONYMOUS, Alias, Amendment, AuditEntry, Page, Upload
from vlibrary.domain.registry_rules import (
    alias_not_found,
    amend,
    check_alias_expected,
    check_alias_revision,
    check_deleted,
    check_key_reuse,
    check_revision,
    check_same_request,
    check_unaliased,
    needs_reindexing,
    publish_detail,
    publish_draft,
    purge_detail,
    status_detail,
    update_detail,
    upload_expired,
    upload_replaced,
    vector_exists,
    vector_not_found,
    vector_purged,
    version_not_found,
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
    token: str


@dataclass
class MemoryTables:
    """What the five ports share. Each of their methods holds the lock."""

    clock: Clock
    lock: threading.RLock = field(default_factory=threading.RLock)
    epoch: str = field(default_factory=lambda: uuid.uuid4().hex)
    uploads: dict[str, _Reservation] = field(default_factory=dict)
    records: dict[str, VectorRecord] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    aliases: dict[tuple[str, str], Alias] = field(default_factory=dict)
    log: list[_Entry] = field(default_factory=list)
    entries: list[AuditEntry] = field(default_factory=list)

    def append_change(self, kind: ChangeKind, vector_id: str) -> int:
        self.log.append(_Entry(kind, vector_id, self.clock.now(), uuid.uuid4().hex))
        return len(self.log)

    def append_audit(self, actor: str, action: str, subject: str, detail: Mapping[str, Any]) -> int:
        seq = len(self.entries) + 1
        self.entries.append(AuditEntry(seq, self.clock.now(), actor, action, subject, dict(detail)))
        return seq


class MemoryRegistrations:
    """Implements ports.registrations.Registrations."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def reserve(self, upload: Upload) -> VectorRecord | None:
        with self._tables.lock:
            uploads, now = self._tables.uploads, self._tables.clock.now()
            known = uploads.get(upload.idempotency_key)
            if known is not None and (known.published or known.upload.deadline > now):
                check_key_reuse(upload, known.upload, published=known.published)
                if known.published:
                    return self._published_record(upload, known.upload.vector_id)
            for key, one in list(uploads.items()):
                if key == upload.idempotency_key or not _conflicts(one.upload, upload):
                    continue
                if one.published or one.upload.deadline > now:
                    raise vector_exists(upload)
                del uploads[key]
            uploads[upload.idempotency_key] = _Reservation(upload, published=False)
            return None

    def publish(self, upload: Upload, record: VectorRecord, *, actor: str = ANONYMOUS) -> VectorRecord:
        with self._tables.lock:
            tables, now = self._tables, self._tables.clock.now()
            known = tables.uploads.get(upload.idempotency_key)
            if known is None or known.upload.vector_id != upload.vector_id:
                raise upload_expired(upload)
            if known.published:
                check_same_request(upload, known.upload)
                return self._published_record(upload, upload.vector_id)
            if known.upload.object_key != upload.object_key:
                raise upload_replaced(upload)
            if known.upload.deadline <= now:
                raise upload_expired(upload)
            tables.uploads[upload.idempotency_key] = _Reservation(known.upload, published=True)
            version = tables.newest[record.name] = tables.newest.get(record.name, 0) + 1
            seq = tables.append_change(ChangeKind.PUBLISHED, record.id)
            published = publish_draft(record, version=version, created_at=now, seq=seq)
            tables.records[record.id] = published
            tables.append_audit(actor, "vector.publish", record.id, publish_detail(published))
            return published

    def release(self, upload: Upload) -> None:
        with self._tables.lock:
            known = self._tables.uploads.get(upload.idempotency_key)
            if known is not None and known.upload.object_key == upload.object_key and not known.published:
                del self._tables.uploads[upload.idempotency_key]

    def find_referenced(
        self, object_keys: Collection[str], *, purged_within: timedelta = timedelta(0)
    ) -> frozenset[str]:
        with self._tables.lock:
            tables, now = self._tables, self._tables.clock.now()
            recent = now - purged_within
            purged = {one.vector_id for one in tables.log if one.kind is ChangeKind.PURGED and one.at > recent}
            of_vectors = {record.object_key for record in tables.records.values()}
            of_uploads = {
                one.upload.object_key
                for one in tables.uploads.values()
                if (not one.published and one.upload.deadline > now) or one.upload.vector_id in purged
            }
            return frozenset(object_keys) & (of_vectors | of_uploads)

    def list_expired(self, limit: int) -> list[Upload]:
        with self._tables.lock:
            now, uploads = self._tables.clock.now(), list(self._tables.uploads.values())
        expired = [one.upload for one in uploads if not one.published and one.upload.deadline <= now]
        return sorted(expired, key=lambda upload: (upload.deadline, upload.vector_id))[:limit]

    def _published_record(self, upload: Upload, vector_id: str) -> VectorRecord:
        record = self._tables.records.get(vector_id)
        if record is None:
            raise vector_purged(upload, vector_id)
        return record


class MemoryVectors:
    """Implements ports.vectors.Vectors."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def get(self, vector_id: str, *, deleted: bool = False) -> VectorRecord:
        with self._tables.lock:
            record = self._tables.records.get(vector_id)
        if record is None or (record.status is Status.DELETED and not deleted):
            raise vector_not_found(vector_id)
        return record

    def get_many(self, vector_ids: Sequence[str]) -> list[VectorRecord]:
        with self._tables.lock:
            known = self._tables.records
            found = [known[vector_id] for vector_id in vector_ids if vector_id in known]
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
        self,
        vector_id: str,
        amendment: Amendment,
        *,
        description_key: TaskKey | None = None,
        expected_revision: int | None = None,
        actor: str = ANONYMOUS,
    ) -> tuple[VectorRecord, int]:
        with self._tables.lock:
            before = self.get(vector_id)
            check_revision(f"Vector {vector_id}", before.revision, expected_revision)
            after = self._tables.records[vector_id] = amend(before, amendment, description_key)
            self._tables.append_audit(actor, "vector.update", vector_id, update_detail(before.card, after))
            if needs_reindexing(before, after):
                self._tables.append_change(ChangeKind.REKEYED, vector_id)
            return after, len(self._tables.log)

    def delete(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        with self._tables.lock:
            record = self.get(vector_id)
            check_revision(f"Vector {vector_id}", record.revision, expected_revision)
            aliases = self._tables.aliases.items()
            check_unaliased(vector_id, (key for key, alias in aliases if alias.vector_id == vector_id))
            deleted = replace(record, status=Status.DELETED, deleted_at=self._tables.clock.now())
            return self._set_status(deleted, "vector.delete", ChangeKind.DELETED, actor)

    def restore(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        with self._tables.lock:
            active = replace(self._deleted(vector_id, expected_revision), status=Status.ACTIVE, deleted_at=None)
            return self._set_status(active, "vector.restore", ChangeKind.RESTORED, actor)

    def purge(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        with self._tables.lock:
            record = self._deleted(vector_id, expected_revision)
            del self._tables.records[vector_id]
            self._tables.append_audit(actor, "vector.purge", vector_id, purge_detail(record))
            return self._tables.append_change(ChangeKind.PURGED, vector_id)

    def _passing(self, which: Filter) -> list[VectorRecord]:
        with self._tables.lock:
            return [record for record in self._tables.records.values() if which.allows(record)]

    def _deleted(self, vector_id: str, expected: int | None) -> VectorRecord:
        record = self.get(vector_id, deleted=True)
        check_deleted(vector_id, record.status)
        check_revision(f"Vector {vector_id}", record.revision, expected)
        return record

    def _set_status(self, record: VectorRecord, action: str, kind: ChangeKind, actor: str) -> int:
        record = self._tables.records[record.id] = replace(record, revision=record.revision + 1)
        self._tables.append_audit(actor, action, record.id, status_detail(record))
        return self._tables.append_change(kind, record.id)


class MemoryAliases:
    """Implements ports.aliases.Aliases."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def get(self, name: str, alias: str) -> Alias:
        with self._tables.lock:
            found = self._tables.aliases.get((name, alias))
        if found is None:
            raise alias_not_found(name, alias)
        return found

    def list(self, name: str | None = None) -> Sequence[Alias]:
        with self._tables.lock:
            return [alias for _, alias in sorted(self._tables.aliases.items()) if name in (None, alias.name)]

    def set(self, name: str, alias: str, vector_id: str, *, expected: int, actor: str = ANONYMOUS) -> Alias:
        with self._tables.lock:
            tables = self._tables
            found = tables.records.get(vector_id)
            if found is None or found.status is not Status.ACTIVE or found.name != name:
                raise version_not_found(vector_id, name)
            old = tables.aliases.get((name, alias))
            check_alias_expected(name, alias, old.revision if old else 0, expected)
            detail = {"vector_id": vector_id, "before": old.vector_id if old else None}
            revision = tables.append_audit(actor, "alias.set", f"{name}@{alias}", detail)
            new = tables.aliases[name, alias] = Alias(name, alias, vector_id, revision, tables.clock.now())
            return new

    def drop(self, name: str, alias: str, *, expected: int, actor: str = ANONYMOUS) -> None:
        with self._tables.lock:
            found = self.get(name, alias)
            check_alias_revision(name, alias, found.revision, expected)
            self._tables.append_audit(actor, "alias.drop", f"{name}@{alias}", {"vector_id": found.vector_id})
            del self._tables.aliases[name, alias]


class MemoryChangeLog:
    """Implements ports.change_log.ChangeLog."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def position(self) -> LogPosition:
        with self._tables.lock:
            log = self._tables.log
            return LogPosition(self._tables.epoch, len(log), log[-1].token if log else "")

    def read(self, after: int, limit: int) -> list[Change]:
        with self._tables.lock:
            first = max(after, 0)
            entries = enumerate(self._tables.log[first:][:limit], first + 1)
            return [self._change(seq, entry) for seq, entry in entries]

    def renew_epoch(self, *, replacing: str | None = None, actor: str = ANONYMOUS) -> LogPosition:
        with self._tables.lock:
            tables = self._tables
            if replacing in (None, tables.epoch):
                old, tables.epoch = tables.epoch, uuid.uuid4().hex
                tables.append_audit(actor, EPOCH_RENEWED, tables.epoch, renewal_detail(old, len(tables.log)))
            return self.position()

    def now(self) -> datetime:
        return self._tables.clock.now()

    def _change(self, seq: int, entry: _Entry) -> Change:
        record = self._tables.records.get(entry.vector_id)
        if record is None or not entry.kind.findable:
            return Change(seq, entry.kind, entry.vector_id, token=entry.token)
        card, model = record.card, record.model.fingerprint
        return Change(seq, entry.kind, record.id, model, card.keys, card.embedder, entry.token, record.seq)


class MemoryAuditLog:
    """Implements ports.audit_log.AuditLog."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def read(self, after: int, limit: int) -> list[AuditEntry]:
        with self._tables.lock:
            return self._tables.entries[max(after, 0) :][:limit]

    def append(self, action: str, subject: str, detail: Mapping[str, Any], *, actor: str) -> None:
        with self._tables.lock:
            self._tables.append_audit(actor, action, subject, detail)


def memory_catalogue(
    clock: Clock | None = None,
    *,
    registrations: Callable[[MemoryTables], Registrations] = MemoryRegistrations,
    vectors: Callable[[MemoryTables], Vectors] = MemoryVectors,
    aliases: Callable[[MemoryTables], Aliases] = MemoryAliases,
    change_log: Callable[[MemoryTables], ChangeLog] = MemoryChangeLog,
    audit_log: Callable[[MemoryTables], AuditLog] = MemoryAuditLog,
) -> Catalogue:
    """Return an empty catalogue. Tests replace a port's class to inject faults."""
    tables = MemoryTables(clock or SystemClock())
    return Catalogue(registrations(tables), vectors(tables), aliases(tables), change_log(tables), audit_log(tables))


def _conflicts(one: Upload, other: Upload) -> bool:
    return one.vector_id == other.vector_id or one.object_key == other.object_key
