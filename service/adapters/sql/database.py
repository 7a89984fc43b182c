"""Connections to the database, and the differences between SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
from sqlalchemy import (
    URL,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Insert,
    Table,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from vlibrary.domain.errors import CatalogueUnavailable, InvalidInput

# Advisory lock of migrations: any number that no other program uses in this database.
MIGRATION_LOCK = 0x0056_4C49_4252_4152
# How long a migration waits for another one of the same database, which may rewrite many rows.
MIGRATION_WAIT_MS = 3_600_000
# PostgreSQL rolled the transaction back (serialization failure, deadlock), or is shutting down or starting.
PASSING_STATES = ("40001", "40P01", "57P01", "57P02", "57P03")


class UtcTime(TypeDecorator[datetime]):
    """A timestamp: timezone-aware UTC in Python, and in SQLite text that sorts by time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None or value.tzinfo is None:
            return None if value is None else value.replace(tzinfo=UTC)
        return value.astimezone(UTC)


class database_now(FunctionElement[datetime]):  # noqa: N801  (reads as the SQL function that it is)
    """The database's current time, not the transaction's start: a writer may have waited for the lock."""

    type = UtcTime()
    inherit_cache = True


@compiles(database_now)
def _now(element: database_now, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ARG001
    return "clock_timestamp()"


@compiles(database_now, "sqlite")
def _now_on_sqlite(element: database_now, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ARG001
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


def connect(url: str, *, patience: float = 10.0, pool_size: int = 15, statement_s: float | None = None) -> Engine:
    """Return an engine for the URL, without connecting yet.

    pool_size: connections; further transactions wait for one. statement_s: seconds after which PostgreSQL cancels a
    statement; None for no limit.

    patience: seconds to wait for a free connection and for other writers. On PostgreSQL, a transaction that is idle for
    this long is aborted, so that a frozen process does not block the others.
    Raises CatalogueUnavailable for an invalid URL.
    """
    try:
        parsed = make_url(url)
        on_postgres = parsed.get_backend_name() == "postgresql"
        if on_postgres:
            engine = _postgres(parsed, patience, pool_size, statement_s)
        else:
            engine = create_engine(parsed, pool_timeout=patience, pool_size=pool_size, max_overflow=0)
    except (SQLAlchemyError, ImportError, ValueError):  # ImportError: another database's driver
        # Without the cause, whose message may contain the password.
        raise CatalogueUnavailable(
            "Invalid database URL.", "Use sqlite:////path/to/file.db or postgresql+psycopg://user@host/name."
        ) from None
    if engine.dialect.name == "sqlite":
        _set_up_sqlite(engine, patience)
    return engine


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate errors of SQLAlchemy and the drivers into errors of the domain.

    DataError, and what sqlite3 raises unwrapped, mean an invalid value, for which a retry cannot help.
    """
    try:
        yield
    except (DataError, UnicodeError, OverflowError) as error:
        raise InvalidInput(
            "The database cannot store a value of the request.", "Remove control characters and huge numbers."
        ) from error
    except SQLAlchemyError as error:
        raise CatalogueUnavailable(
            f"The catalogue's database failed ({type(error).__name__}).",
            "Retry; if the error persists, see the service log for its cause.",
        ) from error


def is_transient(error: BaseException) -> bool:
    """Return whether the transaction ended and an immediate retry may succeed; on PostgreSQL only.

    SQLite has no connection to lose and waits for other writers by itself.
    """
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    cause = error.orig
    could_not_connect = isinstance(cause, psycopg.OperationalError) and cause.sqlstate is None
    return could_not_connect or (isinstance(cause, psycopg.Error) and cause.sqlstate in PASSING_STATES)


def for_reading(engine: Engine) -> Engine:
    """Return the engine with transactions that see a single snapshot of the database."""
    if engine.dialect.name == "sqlite":
        return engine  # the default
    return engine.execution_options(isolation_level="REPEATABLE READ")


def for_writing(engine: Engine) -> Engine:
    """Return the engine with transactions that take SQLite's write lock at their start.

    A transaction that reads first and locks later fails at once if another one wrote in between.
    """
    return engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")


def insert_or_ignore(connection: Connection, table: Table) -> Insert:
    """Return an INSERT that does nothing on a conflict with a key or a unique column."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that may change tables; other migrations of the same database wait for its end."""
    with for_writing(engine).connect() as connection:
        if engine.dialect.name == "sqlite":
            # SQLite changes a table by rewriting it, and dropping the old one would violate foreign keys. The pragma
            # has no effect in a transaction, which SQLAlchemy begins with its first statement: hence the raw cursor.
            cursor = connection.connection.cursor()
            cursor.execute("PRAGMA foreign_keys = OFF")
            cursor.execute(f"PRAGMA busy_timeout = {MIGRATION_WAIT_MS}")
            # Take the lock before Alembic reads which steps are missing.
            connection.begin()
        else:
            connection.execute(text(f"SET LOCAL lock_timeout = {MIGRATION_WAIT_MS}"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        yield connection
        connection.commit()
        connection.invalidate()  # its settings differ from the pool's


def _postgres(url: URL, patience: float, pool_size: int, statement_s: float | None) -> Engine:
    milliseconds = int(patience * 1000)
    limits = dict.fromkeys(("lock_timeout", "idle_in_transaction_session_timeout"), milliseconds)
    limits["statement_timeout"] = 0 if statement_s is None else max(1, int(statement_s * 1000))
    engine = create_engine(
        url,
        pool_timeout=patience,
        pool_size=pool_size,
        max_overflow=0,
        isolation_level="READ COMMITTED",
        connect_args={"connect_timeout": max(2, int(patience)), "tcp_user_timeout": milliseconds},
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: psycopg.Connection[Any], entry: ConnectionPoolEntry) -> None:  # noqa: ARG001
        for limit, value in limits.items():
            connection.execute(f"SET SESSION {limit} = {value}")
        connection.commit()

    return engine


def _use_write_ahead_log(connection: sqlite3.Connection, patience: float) -> None:
    """Enable WAL, with retries: SQLite ignores busy_timeout when it changes the journal mode of a new database."""
    locked = Retrying(
        retry=retry_if_exception_type(sqlite3.OperationalError),
        stop=stop_after_delay(patience),
        wait=wait_fixed(0.02),
        reraise=True,
    )
    locked(connection.execute, "PRAGMA journal_mode = WAL")


def _set_up_sqlite(engine: Engine, patience: float) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:  # noqa: ARG001
        connection.isolation_level = None  # on_begin begins transactions, not the driver
        connection.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
        _use_write_ahead_log(connection, patience)
        connection.execute("PRAGMA synchronous = FULL")  # an acknowledged registration survives a power cut
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "checkin")
    def on_checkin(connection: sqlite3.Connection | None, entry: ConnectionPoolEntry) -> None:  # noqa: ARG001
        # A failed commit (disk full) may leave the transaction, and with it the lock, open.
        if connection is not None and connection.in_transaction:
            connection.rollback()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))
