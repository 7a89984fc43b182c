"""The api process of a fault cycle: the service as its composition root builds it, with a worker without models.

It has additional routes for what the service does in the background, and an optional failpoint.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, cast
from unittest.mock import patch

import structlog
import uvicorn
from fastapi import APIRouter, Body, FastAPI

from tests.faults.processes.failpoints import Failpoint, Steps
from tests.faults.processes.shifted_clocks import LaterStore, later_catalogue
from tests.support.memory.worker import MemoryWorker
from vlibrary.adapters.artifacts.open import open_artifacts
from vlibrary.adapters.artifacts.s3 import connect
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.snapshots.open import open_snapshots
from vlibrary.api.bootstrap import open_app
from vlibrary.api.http.deps import LibraryDep
from vlibrary.config import Settings
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.snapshots import SnapshotsUnavailable
from vlibrary.library.library import Library
from vlibrary.library.publish import DEADLINE
from vlibrary.upkeep.collector import Rules, collect

BACKLOG = 128
CHANGES_A_SNAPSHOT = 4


@dataclass(frozen=True)
class Life:
    """Configuration of one process.

    deadline_s: how long a registration may take. s3_timeout_s: timeout of the object store, None: the default of the
    service. largest_file: file size at which writes fail, None: unlimited.
    """

    data_dir: Path
    name: str
    failpoint: Failpoint | None = None
    deadline_s: float = 900.0
    database_url: str | None = None
    artifacts: str | None = None
    snapshots: str | None = None
    s3_endpoint_url: str | None = None
    s3_timeout_s: float | None = None
    snapshot_changes: int = CHANGES_A_SNAPSHOT
    largest_file: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.data_dir / f"{self.name}.log"

    @property
    def struck(self) -> Path:
        """File that names the step at which the failpoint struck, if it did."""
        return self.data_dir / f"{self.name}.struck"


class LateClock:
    """The machine's clock, set back so that registrations have only `deadline_s` to finish."""

    def __init__(self, deadline_s: float) -> None:
        self._late = DEADLINE - timedelta(seconds=deadline_s)

    def now(self) -> datetime:
        return datetime.now(UTC) - self._late


def run(life: Life, parent: Connection) -> None:
    """Serve until the parent ends; send it the port when connections are accepted."""
    _log_to(life.log)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.environ.update(life.environment)
    if life.largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (life.largest_file, life.largest_file))
    steps = Steps(life.failpoint, life.struck)
    steps.watch_sql()
    steps.watch_files()
    if life.s3_timeout_s is not None:
        set_s3_timeout(life.s3_timeout_s)
    settings = _settings(life)
    app = open_app(settings, lambda store, *_: MemoryWorker(store))
    _add_test_routes(app, settings, life.deadline_s, steps)
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does this for its own sockets only
        parent.send(listener.getsockname()[1])
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def set_s3_timeout(timeout_s: float) -> None:
    """Use this timeout for the object store in this process instead of the service's."""
    hasty = partial(connect, connect_timeout=timeout_s, read_timeout=timeout_s)
    patch("vlibrary.adapters.artifacts.open.connect", hasty).start()


def _settings(life: Life) -> Settings:
    return Settings(
        data_dir=life.data_dir,
        database_url=life.database_url,
        artifacts=life.artifacts,
        snapshots=life.snapshots,
        snapshot_changes=life.snapshot_changes,
        s3_endpoint_url=life.s3_endpoint_url,
    )


def _add_test_routes(app: FastAPI, settings: Settings, deadline_s: float, steps: Steps) -> None:
    """Wrap the app's library, and add the test routes."""
    library: Library = app.state.library
    index = library.index
    assert isinstance(index, FaissIndex)
    app.state.library = Library(
        worker=library.worker,
        catalogue=steps.watch_catalogue(library.catalogue),
        artifacts=steps.watch_port(library.artifacts, "artifacts"),
        index=steps.watch_port(index, "index"),
        clock=LateClock(deadline_s),
    )
    router = APIRouter(prefix="/side")
    cache, endpoint_url = settings.data_dir / "snapshots", settings.s3_endpoint_url
    snapshots = open_snapshots(
        settings.snapshots_place, cache=cache, open_store=partial(open_artifacts, endpoint_url=endpoint_url)
    )

    @router.post("/snapshot")
    def snapshot() -> None:
        with suppress(SnapshotsUnavailable):  # the service ignores it, too
            index.save(snapshots)

    @router.post("/collect")
    def collect_now(grace_s: Annotated[float, Body()], purged_s: Annotated[float, Body()], library: LibraryDep) -> Any:
        return _collect(library, grace_s, purged_s)

    app.include_router(router)


def _collect(library: Library, grace_s: float, purged_s: float) -> dict[str, Any]:
    """Run a collection with these grace periods for objects, and for objects of purged vectors."""
    catalogue = later_catalogue(library.catalogue, timedelta(seconds=purged_s))
    store = LaterStore(library.artifacts, DEADLINE - timedelta(seconds=grace_s))
    rules = Rules(grace=DEADLINE)
    *_, done = collect(catalogue, cast("Artifacts", store), rules, actor="faults")
    return asdict(done)


def _log_to(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(handle, stream.fileno())
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def _end_with(parent: Connection) -> None:
    """End this process when its parent ends."""
    try:
        parent.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
