"""Composition root of the api."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from vlibrary.adapters.clock import SystemClock
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.index.late_index import LateIndex
from vlibrary.adapters.workers.fleet import Fleet
from vlibrary.adapters.workers.http_worker import HttpWorker
from vlibrary.api.app import create_app
from vlibrary.api.http.deps import Limits
from vlibrary.api.http.metrics import Metrics
from vlibrary.bootstrap import OpenStores, open_stores
from vlibrary.config import Settings
from vlibrary.domain.errors import Unavailable
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.inference import Inference
from vlibrary.library.library import Library
from vlibrary.library.reindex import catch_up
from vlibrary.upkeep.background import BackgroundTasks
from vlibrary.upkeep.heartbeat import Heartbeat
from vlibrary.upkeep.snapshot_writer import SnapshotSchedule, SnapshotWriter

log = structlog.get_logger(__name__)

# Between attempts to fill the index, and how long the end of the process waits for one.
_RETRY_S = 0.5
_JOIN_S = 5.0


class Closable(Inference, Protocol):
    """A worker or a fleet, which holds threads."""

    def close(self) -> None:
        """Let go of them."""
        ...


def open_app(settings: Settings, open_worker: Callable[[Artifacts, CollectorRegistry], Closable]) -> FastAPI:
    """The app on the stores and workers that the settings name, with its tables made.

    open_worker: makes a worker in this process, called only when the settings name no others; it gets the artifact
    store, since both read from it, and the registry of /metrics. The index is then filled at once; otherwise as soon as
    one of the named workers responds, and until then only what needs a model answers 503. Raises InvalidSetting when
    the stores' places are parts of each other, CatalogueUnavailable, and what open_worker raises.
    """
    stores = open_stores(settings, create=True)
    metrics = Metrics()
    worker = _connect(settings) if settings.workers else open_worker(stores.artifacts, metrics.registry)
    index = None if settings.workers else FaissIndex(worker.models()[0].embedder)
    library = Library(
        catalogue=stores.catalogue,
        artifacts=stores.artifacts,
        index=index or LateIndex(),
        worker=worker,
        clock=SystemClock(),
        default_mode=settings.default_steering,
    )
    filling = _Filling(stores, library)
    if index is not None:
        filling.fill(index)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        filling.start()
        app.state.readiness.ask()
        yield
        app.state.readiness.close()
        worker.close()
        await asyncio.to_thread(filling.close)

    return create_app(
        library,
        _limits(settings),
        metrics=metrics,
        cors_origins=settings.cors_origins,
        allowed_hosts=(*settings.allowed_hosts, settings.host.lower()),
        lifespan=lifespan,
    )


class _Filling:
    """Fills the index when a worker says which embedder its keys have, and then runs the background tasks."""

    def __init__(self, stores: OpenStores, library: Library) -> None:
        self._stores = stores
        self._library = library
        self._background: BackgroundTasks | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fill-index", daemon=True)

    def fill(self, index: FaissIndex) -> None:
        """Load the newest index snapshot, replay the change log, and send the first heartbeat.

        Raises CatalogueUnavailable.
        """
        stores, library = self._stores, self._library
        settings, change_log = stores.settings, library.catalogue.change_log
        loaded = index.load(stores.snapshots, change_log.position().epoch)
        log.info("api.index_filled", seq=catch_up(change_log, index).seq)
        if isinstance(library.index, LateIndex):
            library.index.open(index)
        schedule = SnapshotSchedule(settings.snapshot_changes, settings.snapshot_s).with_jitter()
        writer = SnapshotWriter(index, stores.snapshots, schedule, loaded=loaded)
        heartbeat = Heartbeat(library)
        heartbeat.beat()
        self._background = BackgroundTasks(library, index, writer, heartbeat)

    def start(self) -> None:
        """Start a thread that fills the index unless it is filled, and starts the background tasks."""
        self._thread.start()

    def close(self) -> None:
        """Stop the threads, and save what the background tasks have not."""
        self._stop.set()
        self._thread.join(_JOIN_S)
        if self._background is not None:
            self._background.close()

    def _run(self) -> None:
        known = ""
        while self._background is None and not self._stop.is_set():
            try:
                self.fill(FaissIndex(self._library.worker.models()[0].embedder))
            except Unavailable as error:
                if error.detail != known:
                    log.warning("api.index_not_filled", detail=error.detail, cure=error.cure)
                known = error.detail
                self._stop.wait(_RETRY_S)
        if self._background is not None and not self._stop.is_set():
            self._background.start()


def _connect(settings: Settings) -> Fleet:
    return Fleet({url: HttpWorker(url, settings.shared_token) for url in settings.workers})


def open_fleet(settings: Settings) -> Fleet:
    """The workers that the settings name, at least one of them ready. Raises WorkerUnavailable."""
    fleet = _connect(settings)
    try:
        fleet.wait(settings.worker_wait_s)
    except BaseException:
        fleet.close()
        raise
    return fleet


def _limits(settings: Settings) -> Limits:
    return Limits(
        settings.max_artifact_bytes,
        settings.max_card_bytes,
        settings.max_request_bytes,
        settings.max_bodies_bytes,
        timeout_s=settings.timeout_s,
        max_requests=settings.max_inside,
    )
