"""Amending, deleting, restoring and purging vectors in a SQL catalogue."""

from __future__ import annotations

from sqlalchemy import delete as delete_from
from sqlalchemy import select
from sqlalchemy.orm import selectinload
from sqlalchemy.orm.attributes import flag_modified

from vlibrary.adapters.sql import mapping
from vlibrary.adapters.sql.logs import append, audit, newest
from vlibrary.adapters.sql.tables import AliasRow, FacetRow, KeyRow, VectorRow
from vlibrary.adapters.sql.transactions import Writer
from vlibrary.domain.card import Status, VectorRecord
from vlibrary.domain.labels import is_storable
from vlibrary.domain.ports import Amendment, ChangeKind
from vlibrary.domain.registry_rules import (
    amended,
    amendment,
    check_deleted,
    check_revision,
    check_unaliased,
    removal,
    step,
    vector_not_found,
    was_rekeyed,
)


def update(writer: Writer, vector_id: str, change: Amendment, expected: int | None) -> tuple[VectorRecord, int]:
    row = _active(writer, vector_id, expected)
    before = _record(row)
    after = amended(before, change)
    row.description, row.tags, row.facts = after.card.description, list(after.tags), dict(after.metadata)
    flag_modified(row, "facts")  # to Python, and so to SQLAlchemy, 1 and true are the same
    row.revision = after.revision
    _forget(writer, FacetRow, vector_id)
    writer.add(FacetRow, *mapping.facet_columns(vector_id, after.card))
    audit(writer, "vector.update", vector_id, amendment(before.card, after))
    if was_rekeyed(before, after):
        _forget(writer, KeyRow, vector_id)
        writer.add(KeyRow, *mapping.key_columns(vector_id, after.card.keys))
        append(writer, ChangeKind.REKEYED, vector_id)
    return after, newest(writer)


def delete(writer: Writer, vector_id: str, expected: int | None) -> int:
    row = _active(writer, vector_id, expected)
    pointing = writer.session.scalars(select(AliasRow).where(AliasRow.vector_id == vector_id))
    check_unaliased(vector_id, (f"{alias.name}@{alias.alias}" for alias in pointing))
    row.status, row.deleted_at = Status.DELETED, writer.now()
    return _step(writer, row, "vector.delete", ChangeKind.DELETED)


def restore(writer: Writer, vector_id: str, expected: int | None) -> int:
    row = _deleted(writer, vector_id, expected)
    row.status, row.deleted_at = Status.ACTIVE, None
    return _step(writer, row, "vector.restore", ChangeKind.RESTORED)


def purge(writer: Writer, vector_id: str, expected: int | None) -> int:
    row = _deleted(writer, vector_id, expected)
    audit(writer, "vector.purge", vector_id, removal(_record(row)))
    for table in (FacetRow, KeyRow):
        _forget(writer, table, vector_id)
    writer.session.execute(delete_from(VectorRow).where(VectorRow.id == vector_id))
    return append(writer, ChangeKind.PURGED, vector_id)


def _step(writer: Writer, row: VectorRow, action: str, kind: ChangeKind) -> int:
    row.revision += 1
    audit(writer, action, row.id, step(_record(row)))
    return append(writer, kind, row.id)


def _active(writer: Writer, vector_id: str, expected: int | None) -> VectorRow:
    row = _row(writer, vector_id)
    if row.status != Status.ACTIVE:
        raise vector_not_found(vector_id)
    check_revision(f"Vector {vector_id}", row.revision, expected)
    return row


def _deleted(writer: Writer, vector_id: str, expected: int | None) -> VectorRow:
    row = _row(writer, vector_id)
    check_deleted(vector_id, Status(row.status))
    check_revision(f"Vector {vector_id}", row.revision, expected)
    return row


def _row(writer: Writer, vector_id: str) -> VectorRow:
    keys = selectinload(VectorRow.keys)
    row = writer.session.get(VectorRow, vector_id, options=[keys]) if is_storable(vector_id) else None
    if row is None:
        raise vector_not_found(vector_id)
    return row


def _record(row: VectorRow) -> VectorRecord:
    return mapping.record(row, tuple(mapping.task_key(key.kind, key.image, key.text) for key in row.keys))


def _forget(writer: Writer, table: type[FacetRow | KeyRow], vector_id: str) -> None:
    writer.session.execute(delete_from(table).where(table.vector_id == vector_id))
