"""The catalogue on a SQL database."""

from __future__ import annotations

from sqlalchemy import Engine

from vlibrary.adapters.sql.aliases import SqlAliases
from vlibrary.adapters.sql.logs import SqlAuditLog, SqlChangeLog
from vlibrary.adapters.sql.registrations import SqlRegistrations
from vlibrary.adapters.sql.transactions import Transactions
from vlibrary.adapters.sql.vectors import SqlVectors
from vlibrary.domain.ports.catalogue import Catalogue


def sql_catalogue(engine: Engine) -> Catalogue:
    """Return the catalogue on a database that vlibrary.adapters.sql.schema has migrated. Thread-safe."""
    db = Transactions(engine)
    return Catalogue(SqlRegistrations(db), SqlVectors(db), SqlAliases(db), SqlChangeLog(db), SqlAuditLog(db))
