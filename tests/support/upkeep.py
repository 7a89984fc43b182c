"""Libraries for operator procedures: registrations step by step, and a fake clock."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import update

from tests.support.library import memory_library
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.catalogue import memory_catalogue
from tests.support.registrations import draft
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.sql.backup_tables import SqlTables
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.adapters.sql.tables import CHANGES
from vlibrary.domain.card import VectorRecord
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.ports.clock import Clock
from vlibrary.domain.registration import Upload
from vlibrary.library.library import Library
from vlibrary.library.reindex import try_catch_up
from vlibrary.upkeep.collector import Collection, Rules, collect
from vlibrary.upkeep.collector_guard import update_markers
from vlibrary.upkeep.heartbeat import Heartbeat
from vlibrary.upkeep.stores import Stores

DATA = b"the bytes of every vector"
SHA256 = hashlib.sha256(DATA).hexdigest()
DAY = timedelta(days=1)
DEADLINE = timedelta(minutes=15)


class HandClock:
    """ports.Clock."""

    def __init__(self) -> None:
        self.at = datetime(2030, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at


class Registrar:
    """Performs registrations in a library step by step."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.catalogue = library.catalogue
        self.artifacts = library.artifacts
        self._clock = library.clock
        self._numbers = itertools.count(1)
        update_markers(self.catalogue, self.artifacts)

    def upload(self, *, deadline: timedelta = DEADLINE) -> Upload:
        vector_id = f"{next(self._numbers):026}"  # not a ULID, so that the order of the keys is deterministic
        key = f"{vector_id}/{SHA256}.safetensors"
        return Upload(vector_id, key, vector_id, SHA256, self._clock.now() + deadline)

    def reserve(self, *, deadline: timedelta = DEADLINE) -> Upload:
        upload = self.upload(deadline=deadline)
        self.catalogue.registrations.reserve(upload)
        return upload

    def store(self, *, deadline: timedelta = DEADLINE) -> Upload:
        upload = self.reserve(deadline=deadline)
        self.artifacts.put(upload.object_key, DATA, SHA256)
        return upload

    def publish(self, **card: Any) -> VectorRecord:
        upload = self.store()
        return self.catalogue.registrations.publish(upload, drafted(upload, **card))

    def collect(self, rules: Rules | None = None, **more: Any) -> Collection:
        return list(collect(self.catalogue, self.artifacts, rules or Rules(), actor="tester", **more))[-1]

    def keys(self) -> list[str]:
        """Return the keys of all objects except collector markers."""
        return [found.key for found in self.artifacts.list() if not found.key.startswith("collector/")]


class MemoryLibrary(Registrar):
    """A library on in-memory stores with a fake clock. make: creates the catalogue."""

    def __init__(self, make: Callable[[Clock], Catalogue] = memory_catalogue) -> None:
        self.clock = HandClock()
        empty = memory_library(MemoryArtifacts(self.clock))
        super().__init__(replace(empty, catalogue=make(self.clock), clock=self.clock))


class RealLibrary(Registrar):
    """A library on a database and a folder. Their clocks cannot be changed, so `age` changes timestamps."""

    def __init__(self, url: str, folder: Path) -> None:
        self.engine = connect(url)
        self.folder = folder
        super().__init__(replace(memory_library(FolderArtifacts(folder)), catalogue=sql_catalogue(self.engine)))

    @property
    def stores(self) -> Stores:
        return Stores(self.catalogue, self.artifacts, SqlTables(self.engine))

    def age(self, days: float = 2.0) -> None:
        """Make all objects and changes older."""
        then = time.time() - days * DAY.total_seconds()
        with self.engine.begin() as connection:
            connection.execute(update(CHANGES).values(at=datetime.fromtimestamp(then, UTC)))
        for path in self.folder.rglob("*"):
            if path.is_file():
                os.utime(path, (then, then))


def drafted(upload: Upload, **card: Any) -> VectorRecord:
    """Return the record of an upload of DATA before it is published."""
    return replace(draft(upload, **card), sha256=SHA256, size=len(DATA))


class Beats:
    """The heartbeat of a library whose index follows the change log, with a fake clock."""

    def __init__(self, library: Library) -> None:
        self.seconds = 100.0
        self._library = library
        self._heartbeat = Heartbeat(library, now=lambda: self.seconds)
        self.tick()

    def tick(self) -> None:
        try_catch_up(self._library.catalogue.change_log, self._library.index)
        self._heartbeat.beat_if_due()

    def last(self) -> None:
        try_catch_up(self._library.catalogue.change_log, self._library.index)
        self._heartbeat.beat()
