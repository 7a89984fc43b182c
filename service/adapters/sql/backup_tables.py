"""The catalogue's tables as JSON Lines files, which SQLite and PostgreSQL can both load."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection, Engine, LargeBinary, Table, insert, select, update

from vlibrary.adapters.sql.database import UtcTime, for_reading, translate_errors
from vlibrary.adapters.sql.logs import read_epochs, read_seq, renew_epoch
from vlibrary.adapters.sql.tables import CHANGES, LOG_HEAD, METADATA
from vlibrary.adapters.sql.transactions import Transactions, Writer
from vlibrary.domain.changes import LogPosition
from vlibrary.domain.errors import CatalogueUnavailable, InvalidBackup, NotEmpty
from vlibrary.domain.ports.backup import Dump, ObjectRef, table_file

# Ordered so that no row references a later table.
TABLES: Mapping[str, Table] = {table.name: table for table in METADATA.sorted_tables}
ROWS = 1_000


class SqlTables:
    """ports.backup.Tables of a database with the current schema."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def includes(self, dump: Dump) -> bool:
        with translate_errors(), self._engine.connect() as connection:
            if not dump.mark:
                return read_seq(connection) >= dump.seq
            found = connection.scalars(select(CHANGES.c.mark).where(CHANGES.c.seq == dump.seq)).one_or_none()
            return found == dump.mark

    def dump(self, folder: Path) -> Dump:
        with translate_errors(), for_reading(self._engine).connect() as connection, connection.begin():
            epoch, seq, mark = connection.execute(select(LOG_HEAD.c.epoch, LOG_HEAD.c.n, LOG_HEAD.c.mark)).one()
            counts = {name: _write(connection, table, table_file(folder, name)) for name, table in TABLES.items()}
            return Dump(schema=_schema(connection), epoch=epoch, seq=seq, rows=counts, mark=mark)

    def references(self, folder: Path) -> Iterator[ObjectRef]:
        for row in _read_rows(table_file(folder, "vectors")):
            yield ObjectRef(row["object_key"], row["sha256"], row["size"])

    def check_loadable(self, dump: Dump, *, replace: bool) -> None:
        with translate_errors(), self._engine.connect() as connection:
            ours = _schema(connection)
            held = read_seq(connection)
        if dump.schema != ours or dump.rows.keys() != TABLES.keys():
            raise InvalidBackup(
                f"The backup has schema revision {dump.schema}; this release needs {ours}.",
                "Restore it into an empty database with the release that created it, then run `vlibrary migrate`.",
            )
        _check_empty(held, replace)

    def load(self, folder: Path, *, replace: bool, actor: str) -> LogPosition:
        def act(writer: Writer) -> LogPosition:
            connection = writer.connection
            _check_empty(read_seq(connection), replace)
            replaced = read_epochs(connection)
            for table in reversed(list(TABLES.values())):
                if table is not LOG_HEAD:  # the lock on its row serialises writers
                    connection.execute(table.delete())
            for name, table in TABLES.items():
                _load(connection, table, _read_rows(table_file(folder, name)))
            return renew_epoch(writer, replaced=replaced)

        return Transactions(self._engine).write(act, actor=actor)


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
    except (OSError, ValueError) as error:
        raise InvalidBackup(
            f"The backup's file {path.name} is not readable ({type(error).__name__}).",
            "Use another copy of the backup.",
        ) from error


def _schema(connection: Connection) -> str:
    found = MigrationContext.configure(connection).get_current_revision()
    if found is None:
        raise CatalogueUnavailable("The database has no tables yet.", "Run `vlibrary migrate` first.")
    return found


def _check_empty(changes: int, replace: bool) -> None:
    if changes and not replace:
        raise NotEmpty(
            f"The library is not empty: its change log has {changes} entries.",
            "Restore into a new database, or back up the library and pass --replace to overwrite it.",
        )


def _write(connection: Connection, table: Table, path: Path) -> int:
    encode = {column.name: _codec(column)[0] for column in table.columns}
    count = 0
    query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=ROWS)
    with path.open("x", encoding="utf-8") as file:
        for row in connection.execute(query).mappings():
            values = {name: None if row[name] is None else encode[name](row[name]) for name in encode}
            file.write(json.dumps(values, ensure_ascii=False) + "\n")
            count += 1
    return count


def _load(connection: Connection, table: Table, lines: Iterable[Mapping[str, Any]]) -> None:
    decode = {column.name: _codec(column)[1] for column in table.columns}
    rows = ({name: None if line[name] is None else decode[name](line[name]) for name in decode} for line in lines)
    if table is LOG_HEAD:
        connection.execute(update(table), next(rows))
        return
    while batch := list(islice(rows, ROWS)):
        connection.execute(insert(table), batch)


def _codec(column: Column[Any]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return how a column's values become JSON values, and back."""
    if isinstance(column.type, LargeBinary):
        return lambda value: b64encode(value).decode("ascii"), b64decode
    if isinstance(column.type, UtcTime):
        return datetime.isoformat, datetime.fromisoformat
    return _identity, _identity


def _identity(value: Any) -> Any:
    return value
