"""Transactions of the catalogue: one writer at a time, tried again where that is safe, settled when a commit got lost.

Writers run one after another (SQLite: BEGIN IMMEDIATE; PostgreSQL: the lock on the log head's row), readers beside
them. A publish is a millisecond or two of database time next to an upload of many, and with one writer at a time the
version, the idempotency key, the alias and the deadline are decided without a race.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, exists, insert, select
from sqlalchemy.orm import Session
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
    insert_unless_there,
    is_passing,
    our_errors,
)
from vlibrary.adapters.sql.tables import AuditRow, Base, LogHeadRow, table
from vlibrary.domain.ports import ANONYMOUS

T = TypeVar("T")

# Long enough for a connection that broke and a server that restarts, short enough for a client that waits.
RETRY_S = 2.0
# Made once, since every writer asks them. SQLite leaves FOR UPDATE out.
_LOCK = select(table(LogHeadRow).c.n).with_for_update()
NOW = select(database_now())


@dataclass(frozen=True)
class Writer:
    """A running write transaction. token: the mark that its audit entry carries."""

    connection: Connection
    actor: str
    token: str

    @cached_property
    def session(self) -> Session:
        """For what is easier with objects; a registration, which must be quick, does without."""
        return Session(self.connection, join_transaction_mode="rollback_only")

    def now(self) -> datetime:
        """The database's clock."""
        return self.connection.scalars(NOW).one()

    def add(self, kind: type[Base], *rows: Mapping[str, Any]) -> None:
        """Insert rows, each as its columns' values."""
        if rows:
            self.connection.execute(insert(table(kind)), rows if len(rows) > 1 else rows[0])

    def add_new(self, kind: type[Base], row: Mapping[str, Any]) -> bool:
        """Insert the row unless one is there that it must not stand beside; whether it was inserted."""
        return self.connection.execute(insert_unless_there(self.connection, table(kind)), row).rowcount == 1

    def flush(self) -> None:
        """Send what the session still holds back."""
        if "session" in self.__dict__:
            self.session.flush()
            self.session.close()


class Transactions:
    """Runs functions in transactions of a database. Threads may share it."""

    def __init__(self, engine: Engine) -> None:
        self._reading = for_reading(engine)
        self._writing = for_writing(engine)

    def read(self, act: Callable[[Session], T]) -> T:
        """What the function returns for one unchanging state of the database. It may be called several times."""

        def once() -> T:
            with Session(self._reading) as session, session.begin():
                return act(session)

        return _with_patience(once)

    def look(self, act: Callable[[Connection], T]) -> T:
        """As `read`, for queries of columns alone: making and ending a session takes as long as a small query."""

        def once() -> T:
            with self._reading.connect() as connection:
                return act(connection)

        return _with_patience(once)

    def write(self, act: Callable[[Writer], T], *, actor: str = ANONYMOUS) -> T:
        """What the function returned for the transaction that was kept, once; it may be called several times.

        When the answer to a commit gets lost, the audit entry tells whether it was kept; a function that writes none
        must be one that can be repeated.
        """
        token = uuid.uuid4().hex
        unsettled: list[T] = []

        def once() -> T:
            with self._writing.connect() as connection:
                # The lock: whatever an earlier try left running at the server is over when it is ours.
                connection.execute(_LOCK).one()
                if unsettled and connection.scalar(select(exists().where(AuditRow.token == token))):
                    return unsettled[-1]
                writer = Writer(connection, actor, token)
                result = act(writer)
                writer.flush()
                unsettled.append(result)
                connection.commit()
                return result

        return _with_patience(once)


def _with_patience(once: Callable[[], T]) -> T:
    retrying = Retrying(
        retry=retry_if_exception(is_passing),
        # Twice at least: the commit of a transaction that took longer than that may get lost, too, and must be settled.
        stop=stop_all(stop_after_delay(RETRY_S), stop_after_attempt(2)),
        wait=wait_exponential_jitter(multiplier=0.02, max=0.5, jitter=0.05),
        reraise=True,
    )
    with our_errors():
        return retrying(once)
