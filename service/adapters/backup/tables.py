"""The catalogue's tables as files, one line of JSON a row: what one database wrote, the other one reads."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection, Engine, LargeBinary, Table, insert, select, update

from vlibrary.adapters.sql.database import UtcTime, for_reading, our_errors
from vlibrary.adapters.sql.logs import epochs, renew_epoch
from vlibrary.adapters.sql.tables import Base, ChangeRow, LogHeadRow
from vlibrary.adapters.sql.transactions import Transactions, Writer
from vlibrary.domain.backup import Dump
from vlibrary.domain.errors import ArtifactsUnavailable, CatalogueUnavailable, InvalidBackup, NotEmpty
from vlibrary.domain.ports import Position

# In an order in which no row refers to a later table.
TABLES: Mapping[str, Table] = {table.name: table for table in Base.metadata.sorted_tables}
ROWS = 1_000


def table_file(folder: Path, table: str) -> Path:
    """Where the rows of a table lie."""
    return folder / f"{table}.jsonl"


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, as JSON. Raises InvalidBackup."""
    try:
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
    except (OSError, ValueError) as error:
        raise InvalidBackup(f"{path.name} of the backup cannot be read ({type(error).__name__}).", _CURE) from error


@contextmanager
def writable() -> Iterator[None]:
    """Turns what a backup's folder raises into an error of ours."""
    try:
        yield
    except OSError as error:
        raise ArtifactsUnavailable(
            f"The backup's folder cannot be written to ({error.strerror}).",
            "Check the folder's space and permissions, or choose another one.",
        ) from error


_CURE = "Take another copy of the backup."


class SqlTables:
    """domain.backup.Tables of a database that is up to date."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def knows(self, dump: Dump) -> bool:
        with our_errors(), self._engine.connect() as connection:
            if not dump.mark:
                return connection.scalars(select(LogHeadRow.n)).one() >= dump.seq
            found = connection.scalars(select(ChangeRow.mark).where(ChangeRow.seq == dump.seq)).one_or_none()
            return found == dump.mark

    def dump(self, folder: Path) -> Dump:
        with writable(), our_errors(), for_reading(self._engine).connect() as connection, connection.begin():
            epoch, seq, mark = connection.execute(select(LogHeadRow.epoch, LogHeadRow.n, LogHeadRow.mark)).one()
            counts = {name: _write(connection, table, table_file(folder, name)) for name, table in TABLES.items()}
            return Dump(schema=_schema(connection), epoch=epoch, seq=seq, rows=counts, mark=mark)

    def check_loadable(self, dump: Dump, *, replace: bool) -> None:
        with our_errors(), self._engine.connect() as connection:
            ours = _schema(connection)
            held = connection.scalars(select(LogHeadRow.n)).one()
        if dump.schema != ours:
            raise InvalidBackup(
                f"The backup's tables are of revision {dump.schema}, this release's of {ours}.",
                "Restore it with the release that made it, into an empty database, and run `vlibrary migrate` then.",
            )
        _check_empty(held, replace)

    def load(self, folder: Path, *, replace: bool, actor: str) -> Position:
        def act(writer: Writer) -> Position:
            session = writer.session
            _check_empty(session.scalars(select(LogHeadRow.n)).one(), replace)
            replaced = epochs(session)
            for table in reversed(list(TABLES.values())):
                if table is not LogHeadRow.__table__:  # its row is the lock that others wait for
                    session.execute(table.delete())
            for name, table in TABLES.items():
                _load(session.connection(), table, read_rows(table_file(folder, name)))
            return renew_epoch(writer, replaced=replaced)

        return Transactions(self._engine).write(act, actor=actor)


def _schema(connection: Connection) -> str:
    found = MigrationContext.configure(connection).get_current_revision()
    if found is None:
        raise CatalogueUnavailable("The database has no tables yet.", "Run `vlibrary migrate` first.")
    return found


def _check_empty(changes: int, replace: bool) -> None:
    if changes and not replace:
        raise NotEmpty(
            f"The library is not empty: its change log has {changes} entries.",
            "Restore into a new database, or give --replace to lose what the library holds now; back it up first.",
        )


def _write(connection: Connection, table: Table, path: Path) -> int:
    encode = {column.name: _encoder(column) for column in table.columns}
    count = 0
    query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=ROWS)
    with path.open("x", encoding="utf-8") as file:
        for row in connection.execute(query).mappings():
            values = {name: None if row[name] is None else encode[name](row[name]) for name in encode}
            file.write(json.dumps(values, ensure_ascii=False) + "\n")
            count += 1
    return count


def _load(connection: Connection, table: Table, lines: Iterable[Mapping[str, Any]]) -> None:
    decode = {column.name: _decoder(column) for column in table.columns}
    rows = ({name: None if line[name] is None else decode[name](line[name]) for name in decode} for line in lines)
    if table is LogHeadRow.__table__:
        connection.execute(update(table), next(rows))
        return
    while batch := list(islice(rows, ROWS)):
        connection.execute(insert(table), batch)


def _encoder(column: Column[Any]) -> Callable[[Any], Any]:
    if isinstance(column.type, LargeBinary):
        return lambda value: b64encode(value).decode("ascii")
    return datetime.isoformat if isinstance(column.type, UtcTime) else _same


def _decoder(column: Column[Any]) -> Callable[[Any], Any]:
    if isinstance(column.type, LargeBinary):
        return b64decode
    return datetime.fromisoformat if isinstance(column.type, UtcTime) else _same


def _same(value: Any) -> Any:
    return value
