"""Registered vectors in a SQL database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import BindParameter, Connection, Select, bindparam, delete, select, update

from vlibrary.adapters.sql.filters import clauses
from vlibrary.adapters.sql.logs import append_audit, append_change, read_seq
from vlibrary.adapters.sql.mapping import facet_rows, key_rows, read_keys, to_record, vector_row
from vlibrary.adapters.sql.tables import ALIASES, FACETS, TASK_KEYS, VECTORS
from vlibrary.adapters.sql.transactions import Transactions, Writer
from vlibrary.domain.card import Status, TaskKey, VectorRecord
from vlibrary.domain.changes import ChangeKind
from vlibrary.domain.filters import EVERYTHING_ACTIVE, Filter
from vlibrary.domain.labels import is_storable
from vlibrary.domain.registration import ANONYMOUS, Amendment, Page
from vlibrary.domain.registry_rules import (
    amend,
    check_deleted,
    check_revision,
    check_unaliased,
    needs_reindexing,
    purge_detail,
    status_detail,
    update_detail,
    vector_not_found,
)
from vlibrary.formats.cursor import decode_cursor, encode_cursor

_ROW = VECTORS.c
# The columns that an amendment can change.
_AMENDABLE = ("description", "tags", "metadata", "embedder", "calibration", "thresholds")
# Built once, because every search executes it, and building takes as long as executing.
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_ACTIVE = select(VECTORS).where(_ROW.id.in_(_IDS), _ROW.status == Status.ACTIVE)


class SqlVectors:
    """Implements ports.vectors.Vectors."""

    def __init__(self, db: Transactions) -> None:
        self._db = db

    def get(self, vector_id: str, *, deleted: bool = False) -> VectorRecord:
        return self._db.read(lambda connection: _get(connection, vector_id, deleted=deleted))

    def get_many(self, vector_ids: Sequence[str]) -> list[VectorRecord]:
        ids = {"ids": list(set(filter(is_storable, vector_ids)))}
        rows = {row.id: row for row in self._db.read(lambda connection: connection.execute(_ACTIVE, ids).all())}
        return [to_record(rows[vector_id], ()) for vector_id in vector_ids if vector_id in rows]

    def page(self, which: Filter = EVERYTHING_ACTIVE, *, limit: int, cursor: str | None = None) -> Page:
        query = select(VECTORS).where(*clauses(which)).order_by(_ROW.seq.desc()).limit(limit + 1)
        if cursor is not None:
            query = query.where(_ROW.seq < decode_cursor(cursor))
        records = self._db.read(lambda connection: read_records(connection, query))
        more = len(records) > limit
        return Page(tuple(records[:limit]), next=encode_cursor(records[limit - 1].seq) if more else None)

    def ids(self, which: Filter) -> frozenset[str]:
        query = select(_ROW.id).where(*clauses(which))
        return self._db.read(lambda connection: frozenset(connection.scalars(query)))

    def update(
        self,
        vector_id: str,
        amendment: Amendment,
        *,
        description_key: TaskKey | None = None,
        expected_revision: int | None = None,
        actor: str = ANONYMOUS,
    ) -> tuple[VectorRecord, int]:
        def act(writer: Writer) -> tuple[VectorRecord, int]:
            before = _get(writer.connection, vector_id)
            check_revision(f"Vector {vector_id}", before.revision, expected_revision)
            after = amend(before, amendment, description_key)
            row = vector_row(after)
            _set(writer, after, {name: row[name] for name in _AMENDABLE})
            writer.connection.execute(delete(FACETS).where(FACETS.c.vector_id == vector_id))
            writer.add(FACETS, *facet_rows(vector_id, after.card))
            append_audit(writer, "vector.update", vector_id, update_detail(before.card, after))
            if needs_reindexing(before, after):
                writer.connection.execute(delete(TASK_KEYS).where(TASK_KEYS.c.vector_id == vector_id))
                writer.add(TASK_KEYS, *key_rows(vector_id, after.card.keys))
                append_change(writer, ChangeKind.REKEYED, vector_id)
            return after, read_seq(writer.connection)

        return self._db.write(act, actor=actor)

    def delete(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        def act(writer: Writer) -> int:
            record = _get(writer.connection, vector_id)
            check_revision(f"Vector {vector_id}", record.revision, expected_revision)
            aliases = select(ALIASES.c.name, ALIASES.c.alias).where(ALIASES.c.vector_id == vector_id)
            check_unaliased(vector_id, writer.connection.execute(aliases).all())
            gone = replace(record, status=Status.DELETED, deleted_at=writer.now())
            return _set_status(writer, gone, "vector.delete", ChangeKind.DELETED)

        return self._db.write(act, actor=actor)

    def restore(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        def act(writer: Writer) -> int:
            record = _get_deleted(writer.connection, vector_id, expected_revision)
            active = replace(record, status=Status.ACTIVE, deleted_at=None)
            return _set_status(writer, active, "vector.restore", ChangeKind.RESTORED)

        return self._db.write(act, actor=actor)

    def purge(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        def act(writer: Writer) -> int:
            record = _get_deleted(writer.connection, vector_id, expected_revision)
            append_audit(writer, "vector.purge", vector_id, purge_detail(record))
            for column in (FACETS.c.vector_id, TASK_KEYS.c.vector_id, _ROW.id):
                writer.connection.execute(delete(column.table).where(column == vector_id))
            return append_change(writer, ChangeKind.PURGED, vector_id)

        return self._db.write(act, actor=actor)


def read_records(connection: Connection, query: Select[Any]) -> list[VectorRecord]:
    """Return the records of a query that selects all columns of VECTORS."""
    rows = connection.execute(query).all()
    keys = read_keys(connection, [row.id for row in rows])
    return [to_record(row, keys.get(row.id, ())) for row in rows]


def _get(connection: Connection, vector_id: str, *, deleted: bool = False) -> VectorRecord:
    query = select(VECTORS).where(_ROW.id == vector_id)
    if not deleted:
        query = query.where(_ROW.status == Status.ACTIVE)
    found = read_records(connection, query) if is_storable(vector_id) else []
    if not found:
        raise vector_not_found(vector_id)
    return found[0]


def _get_deleted(connection: Connection, vector_id: str, expected_revision: int | None) -> VectorRecord:
    record = _get(connection, vector_id, deleted=True)
    check_deleted(vector_id, record.status)
    check_revision(f"Vector {vector_id}", record.revision, expected_revision)
    return record


def _set_status(writer: Writer, record: VectorRecord, action: str, kind: ChangeKind) -> int:
    record = replace(record, revision=record.revision + 1)
    _set(writer, record, {"status": record.status, "deleted_at": record.deleted_at})
    append_audit(writer, action, record.id, status_detail(record))
    return append_change(writer, kind, record.id)


def _set(writer: Writer, record: VectorRecord, values: dict[str, Any]) -> None:
    query = update(VECTORS).where(_ROW.id == record.id).values(values | {"revision": record.revision})
    writer.connection.execute(query)
