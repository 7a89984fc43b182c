"""Aliases in a SQL catalogue: moved by compare-and-swap."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from vlibrary.adapters.sql import mapping
from vlibrary.adapters.sql.logs import audit
from vlibrary.adapters.sql.tables import AliasRow, VectorRow
from vlibrary.adapters.sql.transactions import Writer
from vlibrary.domain.card import Status
from vlibrary.domain.labels import check_alias, is_storable
from vlibrary.domain.ports import Alias
from vlibrary.domain.registry_rules import alias_not_found, check_alias_expected, check_revision, no_version


def get(session: Session, name: str, alias: str) -> Alias:
    return mapping.alias(_row(session, name, alias))


def listed(session: Session, name: str | None) -> list[Alias]:
    if not is_storable(name):
        return []
    query = select(AliasRow)
    if name is not None:
        query = query.where(AliasRow.name == name)
    found = [mapping.alias(row) for row in session.scalars(query)]
    return sorted(found, key=lambda alias: (alias.name, alias.alias))  # by code point, in every database


def set_to(writer: Writer, name: str, alias: str, vector_id: str, expected: int) -> Alias:
    check_alias(alias)
    session = writer.session
    vector = session.get(VectorRow, vector_id) if is_storable(vector_id) else None
    if vector is None or vector.status != Status.ACTIVE or vector.name != name:
        raise no_version(vector_id, name)
    row = session.get(AliasRow, (name, alias))
    check_alias_expected(name, alias, row.revision if row else 0, expected)
    moved_from = row.vector_id if row else None
    row = row or AliasRow(name=name, alias=alias)
    row.vector_id, row.changed_at = vector_id, writer.now()
    # The audit entry's number: an alias that was dropped and set again has another revision than before.
    row.revision = audit(writer, "alias.set", f"{name}@{alias}", {"vector_id": vector_id, "before": moved_from})
    session.add(row)
    return mapping.alias(row)


def drop(writer: Writer, name: str, alias: str, expected: int) -> None:
    row = _row(writer.session, name, alias)
    check_revision(f"The alias {name}@{alias}", row.revision, expected)
    audit(writer, "alias.drop", f"{name}@{alias}", {"vector_id": row.vector_id})
    writer.session.delete(row)


def _row(session: Session, name: str, alias: str) -> AliasRow:
    row = session.get(AliasRow, (name, alias)) if is_storable((name, alias)) else None
    if row is None:
        raise alias_not_found(name, alias)
    return row
