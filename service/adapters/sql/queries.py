"""Vectors and changes read from a SQL catalogue: as plain columns, since the mapper's objects take twice the time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from typing import Any

from sqlalchemy import BindParameter, Connection, Select, bindparam, inspect, select
from sqlalchemy.orm import Session

from vlibrary.adapters.sql import mapping
from vlibrary.adapters.sql.tables import ChangeRow, KeyRow, VectorRow, table
from vlibrary.domain.card import Status, TaskKey, VectorRecord
from vlibrary.domain.ports import Change, ChangeKind

# Well below the number of parameters that any database takes.
IDS_A_QUERY = 500

VECTORS: Select[Any] = select(*(column.columns[0].label(column.key) for column in inspect(VectorRow).column_attrs))
# Made once and of the tables' own columns, since every search asks them: to put them together from the mapper's
# attributes takes SQLAlchemy as long as the rest.
_VECTOR, _KEY, _CHANGE = (table(row).c for row in (VectorRow, KeyRow, ChangeRow))
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_ACTIVE = VECTORS.where(_VECTOR.id.in_(_IDS), _VECTOR.status == Status.ACTIVE)
_KEYS = (
    select(_KEY.vector_id, _KEY.kind, _KEY.image, _KEY.text)
    .where(_KEY.vector_id.in_(_IDS))
    .order_by(_KEY.vector_id, _KEY.number)
)
_CHANGES = (
    select(_CHANGE.seq, _CHANGE.kind, _CHANGE.vector_id, _VECTOR.model_fingerprint, _VECTOR.embedder, _CHANGE.mark)
    .outerjoin_from(table(ChangeRow), table(VectorRow), _VECTOR.id == _CHANGE.vector_id)
    .where(_CHANGE.seq > bindparam("after"))
    .order_by(_CHANGE.seq)
    .limit(bindparam("limit"))
)


def records(session: Session, query: Select[Any]) -> list[VectorRecord]:
    """The records of a query that was made from VECTORS."""
    found = session.execute(query).all()
    keys = _keys(session, [row.id for row in found])
    return [mapping.record(row, keys.get(row.id, ())) for row in found]


def active(connection: Connection, vector_ids: Collection[str]) -> dict[str, VectorRecord]:
    """The active ones among these vectors, by id; their cards' keys are left out, which are most of a vector's row."""
    found = connection.execute(_ACTIVE, {"ids": list(vector_ids)}).all()
    return {row.id: mapping.record(row, ()) for row in found}


def changes(connection: Connection, after: int, limit: int) -> list[Change]:
    """As ports.Catalogue.changes."""
    found = connection.execute(_CHANGES, {"after": after, "limit": limit}).all()
    keys = _keys(connection, {row.vector_id for row in found if ChangeKind(row.kind).findable})
    return [
        Change(seq, ChangeKind(kind), vector_id, model, keys.get(vector_id, ()), embedder, mark)
        if model is not None and ChangeKind(kind).findable  # None: purged since
        else Change(seq, ChangeKind(kind), vector_id, mark=mark)
        for seq, kind, vector_id, model, embedder, mark in found
    ]


def _keys(database: Session | Connection, vector_ids: Iterable[str]) -> Mapping[str, tuple[TaskKey, ...]]:
    """The keys of each vector that has some, in their order."""
    asked = list(vector_ids)
    found: dict[str, tuple[TaskKey, ...]] = {}
    for start in range(0, len(asked), IDS_A_QUERY):
        in_order = database.execute(_KEYS, {"ids": asked[start : start + IDS_A_QUERY]})
        for vector_id, own in groupby(in_order, key=lambda row: row.vector_id):
            found[vector_id] = tuple(mapping.task_key(row.kind, row.image, row.text) for row in own)
    return found
