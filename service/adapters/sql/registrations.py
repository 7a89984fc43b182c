"""Reservations in a SQL catalogue, and how they become vectors."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import Select, and_, bindparam, delete, or_, select, union, update
from sqlalchemy.orm import Session

from vlibrary.adapters.sql import mapping
from vlibrary.adapters.sql.database import database_now
from vlibrary.adapters.sql.logs import append_and_audit
from vlibrary.adapters.sql.queries import VECTORS, records
from vlibrary.adapters.sql.tables import ChangeRow, FacetRow, KeyRow, NameRow, UploadRow, VectorRow, table
from vlibrary.adapters.sql.transactions import Writer
from vlibrary.domain.card import VectorRecord
from vlibrary.domain.labels import is_storable
from vlibrary.domain.ports import ChangeKind, Upload
from vlibrary.domain.registry_rules import (
    check_own,
    check_used_key,
    publication,
    published_as,
    upload_expired,
    upload_replaced,
    vector_exists,
    vector_purged,
)

# Well below the number of parameters that any database takes.
KEYS_A_QUERY = 1_000

# Made once and of the tables' own columns, since every registration asks them: to put them together from the mapper's
# attributes takes SQLAlchemy longer than the rest.
_UPLOAD, _NAME = table(UploadRow).c, table(NameRow).c
_OF_KEY = _UPLOAD.idempotency_key == bindparam("key")
_FOUND: Select[Any] = select(*_UPLOAD, database_now().label("now"))
_RESERVED = _FOUND.where(_OF_KEY)
_ALIKE = _FOUND.where(or_(_OF_KEY, _UPLOAD.vector_id == bindparam("id"), _UPLOAD.object_key == bindparam("object")))
_PUBLISH = (
    update(table(UploadRow))
    .where(_OF_KEY, _UPLOAD.vector_id == bindparam("id"), _UPLOAD.object_key == bindparam("object"))
    .where(~_UPLOAD.published, _UPLOAD.deadline > database_now())
    .values(published=True)
    .returning(database_now())
)
_FORGET = delete(table(UploadRow)).where(_OF_KEY)
_COUNT_VERSION = (
    update(table(NameRow))
    .where(_NAME.name == bindparam("name_"))
    .values(newest=_NAME.newest + 1)
    .returning(_NAME.newest)
)


def reserve(writer: Writer, upload: Upload) -> VectorRecord | None:
    database = writer.connection
    if writer.add_new(UploadRow, mapping.upload_columns(upload)):
        return None
    known = {row.idempotency_key: row for row in database.execute(_ALIKE, _own(upload))}
    reserved = known.pop(upload.idempotency_key, None)
    if reserved is not None and (reserved.published or reserved.deadline > reserved.now):
        check_used_key(upload, mapping.upload(reserved), published=reserved.published)
        if reserved.published:
            return _record(writer.session, upload, reserved.vector_id)
    if any(row.published or row.deadline > row.now for row in known.values()):
        raise vector_exists(upload)
    for key in (upload.idempotency_key, *known):
        database.execute(_FORGET, {"key": key})
    writer.add(UploadRow, mapping.upload_columns(upload))
    return None


def publish(writer: Writer, upload: Upload, record: VectorRecord) -> VectorRecord:
    created_at = writer.connection.scalars(_PUBLISH, _own(upload)).one_or_none()
    if created_at is None:
        return _made_or_refused(writer, upload)
    version = _next_version(writer, record.name)
    place = partial(published_as, record, version=version, created_at=created_at)
    seq = append_and_audit(
        writer, ChangeKind.PUBLISHED, record.id, "vector.publish", lambda seq: publication(place(seq=seq))
    )
    placed = place(seq=seq)
    writer.add(VectorRow, mapping.vector_columns(placed))
    writer.add(KeyRow, *mapping.key_columns(placed.id, placed.card.keys))
    writer.add(FacetRow, *mapping.facet_columns(placed.id, placed.card))
    return placed


def release(writer: Writer, upload: Upload) -> None:
    reserved = writer.session.get(UploadRow, upload.idempotency_key)
    if reserved is not None and reserved.object_key == upload.object_key and not reserved.published:
        writer.session.delete(reserved)


def references(writer: Writer, object_keys: Collection[str], purged_within: timedelta) -> frozenset[str]:
    """As a writer, though it writes nothing: a publisher that made its deadline has committed by now, or never will."""
    of_late = (ChangeRow.kind == ChangeKind.PURGED, ChangeRow.at > writer.now() - purged_within)
    purged = select(ChangeRow.vector_id).where(*of_late)
    asked = [key for key in object_keys if is_storable(key)]
    found: set[str] = set()
    for start in range(0, len(asked), KEYS_A_QUERY):
        part = asked[start : start + KEYS_A_QUERY]
        kept = select(VectorRow.object_key).where(VectorRow.object_key.in_(part))
        is_open = and_(~UploadRow.published, UploadRow.deadline > database_now())
        held = or_(is_open, UploadRow.vector_id.in_(purged))
        uploads = select(UploadRow.object_key).where(UploadRow.object_key.in_(part), held)
        found.update(writer.session.scalars(union(kept, uploads)))
    return frozenset(found)


def stuck(session: Session, limit: int) -> list[Upload]:
    late = (~UploadRow.published, UploadRow.deadline <= database_now())
    query = select(UploadRow).where(*late).order_by(UploadRow.deadline, UploadRow.vector_id).limit(limit)
    return [mapping.upload(row) for row in session.scalars(query)]


def _made_or_refused(writer: Writer, upload: Upload) -> VectorRecord:
    """What the upload made before; raises the reason why it cannot be published otherwise."""
    reserved = writer.connection.execute(_RESERVED, {"key": upload.idempotency_key}).one_or_none()
    if reserved is None or reserved.vector_id != upload.vector_id:
        raise upload_expired(upload)
    if reserved.published:
        check_own(upload, mapping.upload(reserved))
        return _record(writer.session, upload, upload.vector_id)
    if reserved.object_key != upload.object_key:
        raise upload_replaced(upload)
    raise upload_expired(upload)


def _own(upload: Upload) -> dict[str, str]:
    return {"key": upload.idempotency_key, "id": upload.vector_id, "object": upload.object_key}


def _next_version(writer: Writer, name: str) -> int:
    version: int | None = writer.connection.scalars(_COUNT_VERSION, {"name_": name}).one_or_none()
    if version is not None:
        return version
    writer.add(NameRow, {"name": name, "newest": 1})
    return 1


def _record(session: Session, upload: Upload, vector_id: str) -> VectorRecord:
    """What the upload's idempotency key made."""
    found = records(session, VECTORS.where(VectorRow.id == vector_id))
    if not found:
        raise vector_purged(upload, vector_id)
    return found[0]
