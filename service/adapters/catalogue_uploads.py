"""Reservations in a SQL catalogue, and how they become vectors."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import and_, or_, select, union
from sqlalchemy.orm import Session

from service.adapters import rows
from service.adapters.catalogue_log import append, audit
from service.adapters.catalogue_reading import VECTORS, records
from service.adapters.catalogue_rules import (
    check_used_key,
    publication,
    published_as,
    upload_expired,
    vector_exists,
    vector_purged,
)
from service.adapters.database import database_now
from service.adapters.tables import ChangeRow, NameRow, UploadRow, VectorRow
from service.adapters.transactions import Writer
from service.domain.card import VectorRecord
from service.domain.ports import ChangeKind, Upload
from service.domain.text import is_storable

# Well below the number of parameters that any database takes.
KEYS_A_QUERY = 1_000


def reserve(writer: Writer, upload: Upload) -> VectorRecord | None:
    session = writer.session
    reserved = session.get(UploadRow, upload.idempotency_key)
    if reserved is not None and (reserved.published or reserved.deadline > writer.now()):
        check_used_key(upload, rows.upload(reserved), published=reserved.published)
        return _record(session, upload, reserved.vector_id) if reserved.published else None
    if reserved is not None:
        session.delete(reserved)
        session.flush()
    taken = or_(UploadRow.vector_id == upload.vector_id, UploadRow.object_key == upload.object_key)
    if session.scalars(select(UploadRow.idempotency_key).where(taken)).first() is not None:
        raise vector_exists(upload)
    session.add(rows.upload_row(upload))
    return None


def publish(writer: Writer, upload: Upload, record: VectorRecord) -> VectorRecord:
    session = writer.session
    reserved = session.get(UploadRow, upload.idempotency_key)
    if reserved is None or reserved.vector_id != upload.vector_id:
        raise upload_expired(upload)
    if reserved.published:
        return _record(session, upload, upload.vector_id)
    if reserved.object_key != upload.object_key:  # a later upload of the same vector took its place
        raise upload_expired(upload)
    now = writer.now()
    if reserved.deadline <= now:
        raise upload_expired(upload)
    reserved.published = True
    name = session.get(NameRow, record.name) or NameRow(name=record.name, newest=0)
    name.newest += 1
    seq = append(writer, ChangeKind.PUBLISHED, record.id)
    placed = published_as(record, version=name.newest, created_at=now, seq=seq)
    session.add_all((name, rows.vector_row(placed)))
    session.flush()  # facets refer to the vector
    session.add_all(rows.facet_rows(placed.id, placed.card))
    audit(writer, "vector.publish", placed.id, publication(placed))
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
    return [rows.upload(row) for row in session.scalars(query)]


def _record(session: Session, upload: Upload, vector_id: str) -> VectorRecord:
    """What the upload's idempotency key made."""
    found = records(session, VECTORS.where(VectorRow.id == vector_id))
    if not found:
        raise vector_purged(upload, vector_id)
    return found[0]
