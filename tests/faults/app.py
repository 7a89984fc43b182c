"""One api process of a fault cycle: the service as its own composition root wires it, with a worker without models.

Beside the service's routes it has a side door for what has no route, and it can be told to die at a step.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import structlog
import uvicorn
from fastapi import APIRouter, FastAPI

from service.adapters.index_faiss import FaissIndex
from service.adapters.index_snapshot import save
from service.adapters.memory_worker import MemoryWorker
from service.adapters.snapshots import SnapshotsUnavailable
from service.adapters.snapshots_place import open_snapshots
from service.api.bootstrap import open_app
from service.api.deps import Ports, UsePorts
from service.config import Settings
from service.domain.ports import Artifacts
from service.library.collect import Rules, collect
from service.library.publish import DEADLINE
from service.library.reindex import catch_up
from tests.faults.failpoints import Failpoint, Steps

BACKLOG = 128
CHANGES_A_SNAPSHOT = 4


@dataclass(frozen=True)
class Life:
    """What one process is started with.

    deadline_s: how long a registration may take. largest_file: bytes at which the disk is full, None: it never is.
    """

    data_dir: Path
    name: str
    failpoint: Failpoint | None = None
    deadline_s: float = 900.0
    database_url: str | None = None
    artifacts: str | None = None
    snapshots: str | None = None
    s3_endpoint_url: str | None = None
    largest_file: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.data_dir / f"{self.name}.log"

    @property
    def struck(self) -> Path:
        """Names the step at which the failpoint struck, if it did."""
        return self.data_dir / f"{self.name}.struck"


class HastyClock:
    """The machine's clock, set back so that registrations have `deadline_s` to finish and no more."""

    def __init__(self, deadline_s: float) -> None:
        self._late = DEADLINE - timedelta(seconds=deadline_s)

    def now(self) -> datetime:
        return datetime.now(UTC) - self._late


def run(life: Life, parent: Connection) -> None:
    """Serve until the parent is gone; tells it the port as soon as connections are taken."""
    _log_to(life.log)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.environ.update(life.environment)
    if life.largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (life.largest_file, life.largest_file))
    steps = Steps(life.failpoint, life.struck)
    steps.watch_sql()
    steps.watch_files()
    settings = _settings(life)
    app = open_app(settings, lambda artifacts, *_: MemoryWorker(artifacts))
    _let_in(app, settings, life.deadline_s, steps)
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does it for sockets of its own only
        parent.send(listener.getsockname()[1])
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def _settings(life: Life) -> Settings:
    return Settings(
        data_dir=life.data_dir,
        database_url=life.database_url,
        artifacts=life.artifacts,
        snapshots=life.snapshots,
        snapshot_changes=CHANGES_A_SNAPSHOT,
        s3_endpoint_url=life.s3_endpoint_url,
    )


def _let_in(app: FastAPI, settings: Settings, deadline_s: float, steps: Steps) -> None:
    """Wrap the app's ports, and add the side door."""
    ports: Ports = app.state.ports
    index = ports.index
    assert isinstance(index, FaissIndex)
    app.state.ports = replace(
        ports,
        catalogue=steps.watch_port(ports.catalogue, "catalogue"),
        artifacts=steps.watch_port(ports.artifacts, "artifacts"),
        index=steps.watch_port(index, "index"),
        clock=HastyClock(deadline_s),
    )
    router = APIRouter(prefix="/side")
    cache, endpoint_url = settings.data_dir / "snapshots", settings.s3_endpoint_url
    snapshots = open_snapshots(settings.snapshots_place, cache=cache, endpoint_url=endpoint_url)

    @router.post("/snapshot")
    def snapshot() -> None:
        with suppress(SnapshotsUnavailable):  # the service does without, too
            save(index, snapshots)

    @router.post("/{act}")
    def act(act: str, given: dict[str, Any], ports: UsePorts) -> Any:
        return ACTS[act](ports, **given)

    app.include_router(router)


def _restore(ports: Ports, vector_id: str) -> None:
    ports.catalogue.restore(vector_id)
    catch_up(ports.catalogue, ports.index)


def _purge(ports: Ports, vector_id: str) -> None:
    ports.catalogue.purge(vector_id)
    catch_up(ports.catalogue, ports.index)


def _set_alias(ports: Ports, name: str, alias: str, vector_id: str, expected: int) -> dict[str, Any]:
    return {"revision": ports.catalogue.set_alias(name, alias, vector_id, expected=expected).revision}


def _drop_alias(ports: Ports, name: str, alias: str, expected: int) -> None:
    ports.catalogue.drop_alias(name, alias, expected=expected)


def _aliases(ports: Ports, name: str) -> list[dict[str, Any]]:
    found = ports.catalogue.aliases(name)
    return [{"alias": one.alias, "vector_id": one.vector_id, "revision": one.revision} for one in found]


class _LaterStore:
    """The artifact store, whose clock is ahead: objects reach the collector's grace as soon as it is over for them."""

    def __init__(self, artifacts: Artifacts, ahead: timedelta) -> None:
        self._artifacts = artifacts
        self._ahead = ahead

    def now(self) -> datetime:
        return self._artifacts.now() + self._ahead

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._artifacts, attribute)


def _collect(ports: Ports, grace_s: float) -> dict[str, Any]:
    """The collector, with this grace instead of the shortest one that it takes."""
    store = _LaterStore(ports.artifacts, DEADLINE - timedelta(seconds=grace_s))
    *_, done = collect(ports.catalogue, cast("Artifacts", store), Rules(grace=DEADLINE), actor="faults")
    return asdict(done)


ACTS: Mapping[str, Callable[..., Any]] = {
    "restore": _restore,
    "purge": _purge,
    "set_alias": _set_alias,
    "drop_alias": _drop_alias,
    "aliases": _aliases,
    "collect": _collect,
}


def _log_to(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(handle, stream.fileno())
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def _end_with(parent: Connection) -> None:
    """No process outlives the cycle that started it."""
    try:
        parent.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
