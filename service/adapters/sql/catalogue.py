"""The catalogue in a SQL database. How its transactions take turns is told in transactions.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Select, select

from vlibrary.adapters.sql import aliases, lifecycle, logs, registrations
from vlibrary.adapters.sql.filters import clauses
from vlibrary.adapters.sql.queries import VECTORS, active, changes, records
from vlibrary.adapters.sql.tables import VectorRow
from vlibrary.adapters.sql.transactions import NOW, Transactions
from vlibrary.domain.card import Status, VectorRecord
from vlibrary.domain.filters import EVERYTHING_ACTIVE
from vlibrary.domain.labels import is_storable
from vlibrary.domain.ports import (
    ANONYMOUS,
    SYSTEM,
    Alias,
    Amendment,
    AuditEntry,
    Change,
    Filter,
    Page,
    Position,
    Upload,
)
from vlibrary.domain.registry_rules import vector_not_found
from vlibrary.formats.cursor import decode_cursor, encode_cursor


class SqlCatalogue:
    """ports.Catalogue on a database that vlibrary.adapters.sql.schema brought up to date. Threads may share it."""

    def __init__(self, engine: Engine) -> None:
        self._db = Transactions(engine)

    def reserve(self, upload: Upload) -> VectorRecord | None:
        return self._db.write(lambda writer: registrations.reserve(writer, upload))

    def publish(self, upload: Upload, record: VectorRecord, *, actor: str = ANONYMOUS) -> VectorRecord:
        return self._db.write(lambda writer: registrations.publish(writer, upload, record), actor=actor)

    def release(self, upload: Upload) -> None:
        self._db.write(lambda writer: registrations.release(writer, upload))

    def references(self, object_keys: Collection[str], *, purged_within: timedelta = timedelta(0)) -> frozenset[str]:
        return self._db.write(lambda writer: registrations.references(writer, object_keys, purged_within))

    def now(self) -> datetime:
        return self._db.look(lambda connection: connection.scalars(NOW).one())

    def stuck_uploads(self, limit: int) -> list[Upload]:
        return self._db.read(lambda session: registrations.stuck(session, limit))

    def get(self, vector_id: str, *, deleted: bool = False) -> VectorRecord:
        query = VECTORS.where(VectorRow.id == vector_id)
        if not deleted:
            query = query.where(VectorRow.status == Status.ACTIVE)
        found = self._records(query) if is_storable(vector_id) else []
        if not found:
            raise vector_not_found(vector_id)
        return found[0]

    def get_many(self, vector_ids: Sequence[str]) -> list[VectorRecord]:
        asked = set(filter(is_storable, vector_ids))
        found = self._db.look(lambda connection: active(connection, asked))
        return [found[vector_id] for vector_id in vector_ids if vector_id in found]

    def page(self, which: Filter = EVERYTHING_ACTIVE, *, limit: int, cursor: str | None = None) -> Page:
        query = VECTORS.where(*clauses(which)).order_by(VectorRow.seq.desc()).limit(limit + 1)
        if cursor is not None:
            query = query.where(VectorRow.seq < decode_cursor(cursor))
        records = self._records(query)
        more = len(records) > limit
        return Page(tuple(records[:limit]), next=encode_cursor(records[limit - 1].seq) if more else None)

    def ids(self, which: Filter) -> frozenset[str]:
        query = select(VectorRow.id).where(*clauses(which))
        return self._db.look(lambda connection: frozenset(connection.scalars(query)))

    def update(
        self, vector_id: str, change: Amendment, *, expected_revision: int | None = None, actor: str = ANONYMOUS
    ) -> tuple[VectorRecord, int]:
        return self._db.write(
            lambda writer: lifecycle.update(writer, vector_id, change, expected_revision), actor=actor
        )

    def delete(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        return self._db.write(lambda writer: lifecycle.delete(writer, vector_id, expected_revision), actor=actor)

    def restore(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        return self._db.write(lambda writer: lifecycle.restore(writer, vector_id, expected_revision), actor=actor)

    def purge(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        return self._db.write(lambda writer: lifecycle.purge(writer, vector_id, expected_revision), actor=actor)

    def alias(self, name: str, alias: str) -> Alias:
        return self._db.read(lambda session: aliases.get(session, name, alias))

    def aliases(self, name: str | None = None) -> list[Alias]:
        return self._db.read(lambda session: aliases.listed(session, name))

    def set_alias(self, name: str, alias: str, vector_id: str, *, expected: int, actor: str = ANONYMOUS) -> Alias:
        return self._db.write(lambda writer: aliases.set_to(writer, name, alias, vector_id, expected), actor=actor)

    def drop_alias(self, name: str, alias: str, *, expected: int, actor: str = ANONYMOUS) -> None:
        self._db.write(lambda writer: aliases.drop(writer, name, alias, expected), actor=actor)

    def position(self) -> Position:
        found = self._db.look(logs.position)
        return found or self._db.write(logs.settle_epoch, actor=SYSTEM)

    def changes(self, after: int, limit: int) -> list[Change]:
        return self._db.look(lambda connection: changes(connection, after, limit))

    def renew_epoch(self, *, replacing: str | None = None, actor: str = ANONYMOUS) -> Position:
        return self._db.write(lambda writer: logs.renew_epoch(writer, replacing), actor=actor)

    def audit(self, after: int, limit: int) -> list[AuditEntry]:
        return self._db.read(lambda session: logs.audit_entries(session, after, limit))

    def note(self, action: str, subject: str, detail: Mapping[str, Any], *, actor: str) -> None:
        self._db.write(lambda writer: logs.audit(writer, action, subject, detail), actor=actor)

    def _records(self, query: Select[Any]) -> list[VectorRecord]:
        return self._db.read(lambda session: records(session, query))
