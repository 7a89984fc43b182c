"""Aliases in a SQL database."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select

from vlibrary.adapters.sql.logs import append_audit
from vlibrary.adapters.sql.tables import ALIASES, VECTORS
from vlibrary.adapters.sql.transactions import Transactions, Writer
from vlibrary.domain.card import Status
from vlibrary.domain.labels import is_storable
from vlibrary.domain.registration import ANONYMOUS, Alias
from vlibrary.domain.registry_rules import (
    alias_not_found,
    check_alias_expected,
    check_alias_revision,
    version_not_found,
)

_ROW = ALIASES.c


class SqlAliases:
    """Implements ports.aliases.Aliases."""

    def __init__(self, db: Transactions) -> None:
        self._db = db

    def get(self, name: str, alias: str) -> Alias:
        return _require(self._db.read(lambda connection: _find(connection, name, alias)), name, alias)

    def list(self, name: str | None = None) -> Sequence[Alias]:
        if not is_storable(name):
            return []
        query = select(ALIASES) if name is None else select(ALIASES).where(_ROW.name == name)
        found = self._db.read(lambda connection: [Alias(*row) for row in connection.execute(query)])
        return sorted(found, key=lambda alias: (alias.name, alias.alias))  # by code point on every database

    def set(self, name: str, alias: str, vector_id: str, *, expected: int, actor: str = ANONYMOUS) -> Alias:
        active = select(VECTORS.c.id).where(
            VECTORS.c.id == vector_id, VECTORS.c.name == name, VECTORS.c.status == Status.ACTIVE
        )

        def act(writer: Writer) -> Alias:
            if not is_storable((name, vector_id)) or writer.connection.scalar(active) is None:
                raise version_not_found(vector_id, name)
            old = _find(writer.connection, name, alias)
            check_alias_expected(name, alias, old.revision if old else 0, expected)
            detail = {"vector_id": vector_id, "before": old.vector_id if old else None}
            # The revision is the audit entry's number, so an alias that is dropped and set again gets a new one.
            revision = append_audit(writer, "alias.set", f"{name}@{alias}", detail)
            new = Alias(name, alias, vector_id, revision, writer.now())
            if old:
                _remove(writer, name, alias)
            writer.add(ALIASES, vars(new))
            return new

        return self._db.write(act, actor=actor)

    def drop(self, name: str, alias: str, *, expected: int, actor: str = ANONYMOUS) -> None:
        def act(writer: Writer) -> None:
            found = _require(_find(writer.connection, name, alias), name, alias)
            check_alias_revision(name, alias, found.revision, expected)
            append_audit(writer, "alias.drop", f"{name}@{alias}", {"vector_id": found.vector_id})
            _remove(writer, name, alias)

        self._db.write(act, actor=actor)


def _find(connection: Connection, name: str, alias: str) -> Alias | None:
    if not is_storable((name, alias)):
        return None
    row = connection.execute(select(ALIASES).where(_ROW.name == name, _ROW.alias == alias)).one_or_none()
    return None if row is None else Alias(*row)


def _require(found: Alias | None, name: str, alias: str) -> Alias:
    if found is None:
        raise alias_not_found(name, alias)
    return found


def _remove(writer: Writer, name: str, alias: str) -> None:
    writer.connection.execute(delete(ALIASES).where(_ROW.name == name, _ROW.alias == alias))
