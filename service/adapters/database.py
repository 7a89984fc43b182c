"""How a database is reached, and the few things in which SQLite and PostgreSQL differ."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, DateTime, Dialect, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DataError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator

from service.domain.errors import CatalogueUnavailable, InvalidInput


class UtcTime(TypeDecorator[datetime]):
    """A point in time: timezone-aware UTC in Python; SQLite keeps it as text that sorts by time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


class database_now(FunctionElement[datetime]):  # noqa: N801  (reads as the SQL function that it is)
    """The database's clock at this moment, not at the transaction's start: a writer may have waited for its turn."""

    type = UtcTime()
    inherit_cache = True


@compiles(database_now)
def _now(element: database_now, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ARG001
    return "clock_timestamp()"


@compiles(database_now, "sqlite")
def _now_on_sqlite(element: database_now, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ARG001
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


def connect(url: str, *, patience: float = 10.0) -> Engine:
    """An engine for the URL; nothing is opened yet.

    patience: seconds to wait for a free connection and, on SQLite, for another writer to finish.
    Raises CatalogueUnavailable for a URL that names no database.
    """
    try:
        engine = create_engine(url, pool_timeout=patience, pool_pre_ping=True)
    except SQLAlchemyError as error:
        raise CatalogueUnavailable(
            "The catalogue's URL cannot be used.", "Write it as sqlite:////path/to/file.db or postgresql+psycopg://..."
        ) from error
    if engine.dialect.name == "sqlite":
        _set_up_sqlite(engine, patience)
    return engine


@contextmanager
def our_errors() -> Iterator[None]:
    """Turns what SQLAlchemy and the driver raise into errors of ours; nothing foreign passes.

    DataError, and what sqlite3 raises unwrapped: the value was wrong, trying again would not help.
    """
    try:
        yield
    except (DataError, UnicodeError, OverflowError) as error:
        raise InvalidInput(
            "A value of the request cannot be kept in the catalogue.", "Leave out control characters and huge numbers."
        ) from error
    except SQLAlchemyError as error:
        raise CatalogueUnavailable(
            f"The catalogue's database did not answer ({type(error).__name__}).",
            "Try again; the service's log names the cause.",
        ) from error


def for_writing(engine: Engine) -> Engine:
    """The same engine, whose transactions take SQLite's write lock when they begin.

    A transaction that reads first and asks for the lock later fails at once when another one wrote in between.
    """
    return engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")


def _set_up_sqlite(engine: Engine, patience: float) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:  # noqa: ARG001
        assert isinstance(connection, sqlite3.Connection)
        connection.isolation_level = None  # the driver begins nothing by itself: on_begin does
        connection.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # an acknowledged registration survives a power cut
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))
