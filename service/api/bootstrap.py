"""Composition root of the api."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from vlibrary.adapters.clock import SystemClock
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.workers.fleet import Fleet
from vlibrary.adapters.workers.http_worker import HttpWorker
from vlibrary.api.app import create_app
from vlibrary.api.http.deps import Limits
from vlibrary.api.http.metrics import Metrics
from vlibrary.bootstrap import OpenStores, open_stores
from vlibrary.config import Settings
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.inference import Inference
from vlibrary.library.library import Library
from vlibrary.library.reindex import catch_up
from vlibrary.upkeep.background import BackgroundTasks
from vlibrary.upkeep.heartbeat import Heartbeat
from vlibrary.upkeep.snapshot_writer import SnapshotSchedule, SnapshotWriter

log = structlog.get_logger(__name__)


class Closable(Inference, Protocol):
    """A worker or a fleet, which holds threads."""

    def close(self) -> None:
        """Let go of them."""
        ...


def open_app(settings: Settings, open_worker: Callable[[Artifacts, CollectorRegistry], Closable]) -> FastAPI:
    """The app on the stores and workers that the settings name, its tables made and its index filled.

    open_worker: makes a worker in this process, called only when the settings name no others; it gets the artifact
    store, since both read from it, and the registry of /metrics. Raises WorkerUnavailable when none of the named
    workers is ready in time, InvalidInput when the stores' places are parts of each other.
    """
    stores = open_stores(settings, create=True)
    catalogue, artifacts = stores.catalogue, stores.artifacts
    metrics = Metrics()
    worker = open_fleet(settings) if settings.workers else open_worker(artifacts, metrics.registry)
    index = FaissIndex(worker.models()[0].embedder)
    library = Library(
        catalogue=catalogue,
        artifacts=artifacts,
        index=index,
        worker=worker,
        clock=SystemClock(),
        default_mode=settings.default_steering,
    )
    background = _open_background_tasks(stores, library, index)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        background.start()
        app.state.readiness.ask()
        yield
        app.state.readiness.close()
        worker.close()
        await asyncio.to_thread(background.close)

    return create_app(
        library,
        _limits(settings),
        metrics=metrics,
        cors_origins=settings.cors_origins,
        allowed_hosts=(*settings.allowed_hosts, settings.host.lower()),
        lifespan=lifespan,
    )


def open_fleet(settings: Settings) -> Fleet:
    """The workers that the settings name, at least one of them ready. Raises WorkerUnavailable."""
    fleet = Fleet({url: HttpWorker(url, settings.shared_token) for url in settings.workers})
    log.info("api.waiting_for_workers", workers=settings.workers, seconds=settings.worker_wait_s)
    try:
        fleet.wait(settings.worker_wait_s)
    except BaseException:
        fleet.close()
        raise
    return fleet


def _open_background_tasks(stores: OpenStores, library: Library, index: FaissIndex) -> BackgroundTasks:
    """Load the newest index snapshot, replay the change log, and send the first heartbeat."""
    settings = stores.settings
    loaded = index.load(stores.snapshots, library.catalogue.change_log.position().epoch)
    log.info("api.index_filled", seq=catch_up(library.catalogue.change_log, index).seq)
    schedule = SnapshotSchedule(settings.snapshot_changes, settings.snapshot_s).with_jitter()
    writer = SnapshotWriter(index, stores.snapshots, schedule, loaded=loaded)
    heartbeat = Heartbeat(library)
    heartbeat.beat()
    return BackgroundTasks(library, index, writer, heartbeat)


def _limits(settings: Settings) -> Limits:
    return Limits(
        settings.max_artifact_bytes,
        settings.max_card_bytes,
        settings.max_request_bytes,
        settings.max_bodies_bytes,
        timeout_s=settings.timeout_s,
        max_requests=settings.max_inside,
    )
