"""Vectors and changes read from a SQL catalogue: as plain columns, since the mapper's objects take twice the time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Select, bindparam, inspect, select
from sqlalchemy.orm import Session

from service.adapters import rows
from service.adapters.tables import ChangeRow, KeyRow, VectorRow
from service.domain.card import Status, TaskKey, VectorRecord
from service.domain.ports import Change, ChangeKind

# Well below the number of parameters that any database takes.
IDS_A_QUERY = 500

VECTORS: Select[Any] = select(*(column.columns[0].label(column.key) for column in inspect(VectorRow).column_attrs))
# Made once and of the table's own columns, since every search asks it: to put it together from the mapper's attributes
# takes SQLAlchemy as long as the rest.
_TABLE = VectorRow.__table__.c
_ACTIVE = VECTORS.where(_TABLE.id.in_(bindparam("ids", expanding=True)), _TABLE.status == Status.ACTIVE)
_KEYS = select(KeyRow.vector_id, KeyRow.kind, KeyRow.image, KeyRow.text)
_CHANGES = select(
    ChangeRow.seq, ChangeRow.kind, ChangeRow.vector_id, VectorRow.model_id, VectorRow.embedder, ChangeRow.mark
).outerjoin_from(ChangeRow, VectorRow, VectorRow.id == ChangeRow.vector_id)


def records(session: Session, query: Select[Any]) -> list[VectorRecord]:
    """The records of a query that was made from VECTORS."""
    found = session.execute(query).all()
    keys = _keys(session, [row.id for row in found])
    return [rows.record(row, keys.get(row.id, ())) for row in found]


def active(connection: Connection, vector_ids: Collection[str]) -> dict[str, VectorRecord]:
    """The active ones among these vectors, by id; their cards' keys are left out, which are most of a vector's row."""
    found = connection.execute(_ACTIVE, {"ids": list(vector_ids)}).all()
    return {row.id: rows.record(row, ()) for row in found}


def changes(session: Session, after: int, limit: int) -> list[Change]:
    """As ports.Catalogue.changes."""
    query = _CHANGES.where(ChangeRow.seq > after).order_by(ChangeRow.seq).limit(limit)
    found = session.execute(query).all()
    keys = _keys(session, {row.vector_id for row in found if ChangeKind(row.kind).findable})
    return [
        Change(seq, ChangeKind(kind), vector_id, model_id, keys.get(vector_id, ()), embedder, mark)
        if model_id is not None and ChangeKind(kind).findable  # None: purged since
        else Change(seq, ChangeKind(kind), vector_id, mark=mark)
        for seq, kind, vector_id, model_id, embedder, mark in found
    ]


def _keys(session: Session, vector_ids: Iterable[str]) -> Mapping[str, tuple[TaskKey, ...]]:
    """The keys of each vector that has some, in their order."""
    asked = list(vector_ids)
    found: dict[str, tuple[TaskKey, ...]] = {}
    for start in range(0, len(asked), IDS_A_QUERY):
        query = _KEYS.where(KeyRow.vector_id.in_(asked[start : start + IDS_A_QUERY]))
        in_order = session.execute(query.order_by(KeyRow.vector_id, KeyRow.number))
        for vector_id, own in groupby(in_order, key=lambda row: row.vector_id):
            found[vector_id] = tuple(rows.task_key(row.kind, row.image, row.text) for row in own)
    return found
