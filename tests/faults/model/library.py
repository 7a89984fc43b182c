"""One process's handles on a library's stores, and processes that die at a bad moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine

from tests.support.indexes import TINY_EXACT, MergedIndex
from tests.support.memory.worker import EMBEDDER, MemoryWorker
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.clock import SystemClock
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.library.library import Library
from vlibrary.library.publish import DEADLINE, Submission, publish


class Later:
    """The machine's clock plus an offset: for publishers that reserve and die, and for much later collectors."""

    def __init__(self, by: timedelta = timedelta(0)) -> None:
        self._by = by

    def now(self) -> datetime:
        return datetime.now(UTC) + self._by


class LaterFolder(FolderArtifacts):
    """The folder store, with every object older than the grace period."""

    def now(self) -> datetime:
        return super().now() + 2 * DEADLINE


class Dying(Exception):
    """The process dies here."""


class DyingAfterPut(FolderArtifacts):
    """The store of a process that is killed after an object is stored and before anything references it."""

    def put(self, key: str, data: bytes, sha256: str) -> None:
        super().put(key, data, sha256)
        raise Dying


class Replica:
    """One process's handles on stores that it shares with others.

    engine: an engine without open connections, to reuse its compiled statements; None to create one.
    """

    def __init__(self, folder: Path, engine: Engine | None = None) -> None:
        self.engine = engine or connect(f"sqlite:///{folder / 'catalogue.db'}")
        self.catalogue: Catalogue = sql_catalogue(self.engine)
        self.artifacts: Artifacts = FolderArtifacts(folder / "artifacts")
        self.index: FaissIndex = MergedIndex(EMBEDDER, TINY_EXACT)
        self.worker = MemoryWorker(self.artifacts)
        self.stores = Library(self.catalogue, self.artifacts, self.index, self.worker, SystemClock())

    def publish(
        self, submission: Submission, artifacts: Artifacts | None = None, late: timedelta = timedelta(0)
    ) -> str:
        stores = self.stores if artifacts is None else replace(self.stores, artifacts=artifacts)
        return publish(submission, replace(stores, clock=Later(late))).id
