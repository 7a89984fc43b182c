"""Reservations in a SQL database, and how they become vectors."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, delete, or_, select, union, update

from vlibrary.adapters.sql.database import database_now
from vlibrary.adapters.sql.logs import append_change_and_audit
from vlibrary.adapters.sql.mapping import facet_rows, key_rows, to_upload, upload_row, vector_row
from vlibrary.adapters.sql.tables import CHANGES, FACETS, NAMES, TASK_KEYS, UPLOADS, VECTORS
from vlibrary.adapters.sql.transactions import Transactions, Writer
from vlibrary.adapters.sql.vectors import read_records
from vlibrary.domain.card import VectorRecord
from vlibrary.domain.changes import ChangeKind
from vlibrary.domain.labels import is_storable
from vlibrary.domain.registration import ANONYMOUS, Upload
from vlibrary.domain.registry_rules import (
    check_key_reuse,
    check_same_request,
    publish_detail,
    publish_draft,
    upload_expired,
    upload_replaced,
    vector_exists,
    vector_purged,
)

# Well below every database's limit on parameters.
KEYS_PER_QUERY = 1_000

# Built once, because every registration executes them, and building takes longer than executing.
_ROW = UPLOADS.c
_IS_KEY = _ROW.idempotency_key == bindparam("key")
_SELECT: Select[Any] = select(UPLOADS, database_now().label("now"))
_BY_KEY = _SELECT.where(_IS_KEY)
_CONFLICTING = _SELECT.where(or_(_IS_KEY, _ROW.vector_id == bindparam("id"), _ROW.object_key == bindparam("object")))
_OPEN = and_(~_ROW.published, _ROW.deadline > database_now())
_PUBLISH = (
    update(UPLOADS)
    .where(_IS_KEY, _ROW.vector_id == bindparam("id"), _ROW.object_key == bindparam("object"), _OPEN)
    .values(published=True)
    .returning(database_now())
)
_DELETE = delete(UPLOADS).where(_IS_KEY)
_NEXT_VERSION = (
    update(NAMES).where(NAMES.c.name == bindparam("name_")).values(newest=NAMES.c.newest + 1).returning(NAMES.c.newest)
)


class SqlRegistrations:
    """Implements ports.registrations.Registrations."""

    def __init__(self, db: Transactions) -> None:
        self._db = db

    def reserve(self, upload: Upload) -> VectorRecord | None:
        return self._db.write(lambda writer: reserve(writer, upload))

    def publish(self, upload: Upload, record: VectorRecord, *, actor: str = ANONYMOUS) -> VectorRecord:
        return self._db.write(lambda writer: publish(writer, upload, record), actor=actor)

    def release(self, upload: Upload) -> None:
        query = delete(UPLOADS).where(
            _ROW.idempotency_key == upload.idempotency_key, _ROW.object_key == upload.object_key, ~_ROW.published
        )
        self._db.write(lambda writer: writer.connection.execute(query))

    def find_referenced(
        self, object_keys: Collection[str], *, purged_within: timedelta = timedelta(0)
    ) -> frozenset[str]:
        keys = [key for key in object_keys if is_storable(key)]

        def act(writer: Writer) -> frozenset[str]:
            recent = writer.now() - purged_within
            purged = select(CHANGES.c.vector_id).where(CHANGES.c.kind == ChangeKind.PURGED, CHANGES.c.at > recent)
            found: set[str] = set()
            for start in range(0, len(keys), KEYS_PER_QUERY):
                part = keys[start : start + KEYS_PER_QUERY]
                vectors = select(VECTORS.c.object_key).where(VECTORS.c.object_key.in_(part))
                in_use = or_(_OPEN, _ROW.vector_id.in_(purged))
                uploads = select(_ROW.object_key).where(_ROW.object_key.in_(part), in_use)
                found.update(writer.connection.scalars(union(vectors, uploads)))
            return frozenset(found)

        # A write transaction that writes nothing: every publication that met its deadline has committed by now.
        return self._db.write(act)

    def list_expired(self, limit: int) -> list[Upload]:
        expired = select(UPLOADS).where(~_ROW.published, _ROW.deadline <= database_now())
        query = expired.order_by(_ROW.deadline, _ROW.vector_id).limit(limit)
        return self._db.read(lambda connection: [to_upload(row) for row in connection.execute(query)])


def reserve(writer: Writer, upload: Upload) -> VectorRecord | None:
    """Reserve the upload within a running transaction; see ports.registrations.Registrations.reserve."""
    connection = writer.connection
    if writer.add_if_absent(UPLOADS, upload_row(upload)):
        return None
    others = {row.idempotency_key: row for row in connection.execute(_CONFLICTING, _parameters(upload))}
    reserved = others.pop(upload.idempotency_key, None)
    if reserved is not None and (reserved.published or reserved.deadline > reserved.now):
        check_key_reuse(upload, to_upload(reserved), published=reserved.published)
        if reserved.published:
            return _read_published(connection, upload, reserved.vector_id)
    if any(row.published or row.deadline > row.now for row in others.values()):
        raise vector_exists(upload)
    for key in (upload.idempotency_key, *others):
        connection.execute(_DELETE, {"key": key})
    writer.add(UPLOADS, upload_row(upload))
    return None


def publish(writer: Writer, upload: Upload, record: VectorRecord) -> VectorRecord:
    """Publish the upload within a running transaction; see ports.registrations.Registrations.publish."""
    created_at = writer.connection.scalars(_PUBLISH, _parameters(upload)).one_or_none()
    if created_at is None:
        return _earlier_publication(writer.connection, upload)
    complete = partial(publish_draft, record, version=_next_version(writer, record.name), created_at=created_at)
    seq = append_change_and_audit(
        writer, ChangeKind.PUBLISHED, record.id, "vector.publish", lambda seq: publish_detail(complete(seq=seq))
    )
    published = complete(seq=seq)
    writer.add(VECTORS, vector_row(published))
    writer.add(TASK_KEYS, *key_rows(published.id, published.card.keys))
    writer.add(FACETS, *facet_rows(published.id, published.card))
    return published


def _earlier_publication(connection: Connection, upload: Upload) -> VectorRecord:
    """Return the record that this upload published before, or raise the reason why it cannot be published."""
    reserved = connection.execute(_BY_KEY, {"key": upload.idempotency_key}).one_or_none()
    if reserved is None or reserved.vector_id != upload.vector_id:
        raise upload_expired(upload)
    if reserved.published:
        check_same_request(upload, to_upload(reserved))
        return _read_published(connection, upload, upload.vector_id)
    if reserved.object_key != upload.object_key:
        raise upload_replaced(upload)
    raise upload_expired(upload)


def _parameters(upload: Upload) -> dict[str, str]:
    return {"key": upload.idempotency_key, "id": upload.vector_id, "object": upload.object_key}


def _next_version(writer: Writer, name: str) -> int:
    version: int | None = writer.connection.scalars(_NEXT_VERSION, {"name_": name}).one_or_none()
    if version is not None:
        return version
    writer.add(NAMES, {"name": name, "newest": 1})
    return 1


def _read_published(connection: Connection, upload: Upload, vector_id: str) -> VectorRecord:
    found = read_records(connection, select(VECTORS).where(VECTORS.c.id == vector_id))
    if not found:
        raise vector_purged(upload, vector_id)
    return found[0]
