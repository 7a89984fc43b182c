"""Transactions of the catalogue: one writer at a time, retried where that is safe.

Writers run one at a time (SQLite: BEGIN IMMEDIATE; PostgreSQL: a lock on the log head's row); readers run concurrently.
A publication is a millisecond or two of database time against an upload of many, and with a single writer the version,
the idempotency key, the alias and the deadline are decided without races.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Table, exists, insert, select
from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    wait_exponential_jitter,
)

from vlibrary.adapters.sql.database import (
    database_now,
    for_reading,
    for_writing,
    insert_or_ignore,
    is_transient,
    translate_errors,
)
from vlibrary.adapters.sql.tables import AUDIT, LOG_HEAD
from vlibrary.domain.registration import ANONYMOUS

T = TypeVar("T")

# Long enough for a broken connection and a server restart, short enough for a waiting client.
RETRY_S = 2.0
# Built once, because every writer executes them. SQLite omits FOR UPDATE.
_LOCK = select(LOG_HEAD.c.n).with_for_update()
NOW = select(database_now())


@dataclass(frozen=True)
class Writer:
    """A running write transaction. token: identifies it in its audit entry."""

    connection: Connection
    actor: str
    token: str

    def now(self) -> datetime:
        """Return the database's clock."""
        return self.connection.scalars(NOW).one()

    def add(self, table: Table, *rows: Mapping[str, Any]) -> None:
        """Insert rows, each as a mapping of its columns."""
        if rows:
            self.connection.execute(insert(table), rows if len(rows) > 1 else rows[0])

    def add_if_absent(self, table: Table, row: Mapping[str, Any]) -> bool:
        """Insert the row unless it conflicts with another one; return whether it was inserted."""
        return self.connection.execute(insert_or_ignore(self.connection, table), row).rowcount == 1


class Transactions:
    """Runs functions in transactions of a database. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._reading = for_reading(engine)
        self._writing = for_writing(engine)

    def read(self, act: Callable[[Connection], T]) -> T:
        """Return the function's result for one consistent state of the database. It may be called several times."""

        def once() -> T:
            with self._reading.connect() as connection:
                return act(connection)

        return _retry(once)

    def write(self, act: Callable[[Writer], T], *, actor: str = ANONYMOUS) -> T:
        """Return the function's result for the committed transaction. It may be called several times.

        If the answer to a commit is lost, the audit entry shows whether it succeeded; a function that writes no audit
        entry must be idempotent.
        """
        token = uuid.uuid4().hex
        unconfirmed: list[T] = []

        def once() -> T:
            with self._writing.connect() as connection:
                # Once this lock is held, any earlier attempt that was still running at the server has ended.
                connection.execute(_LOCK).one()
                if unconfirmed and connection.scalar(select(exists().where(AUDIT.c.token == token))):
                    return unconfirmed[-1]
                result = act(Writer(connection, actor, token))
                unconfirmed.append(result)
                connection.commit()
                return result

        return _retry(once)


def _retry(once: Callable[[], T]) -> T:
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        # At least twice: the answer to a commit can also be lost after a transaction longer than RETRY_S.
        stop=stop_all(stop_after_delay(RETRY_S), stop_after_attempt(2)),
        wait=wait_exponential_jitter(multiplier=0.02, max=0.5, jitter=0.05),
        reraise=True,
    )
    with translate_errors():
        return retrying(once)
