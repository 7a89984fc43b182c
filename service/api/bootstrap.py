"""Composition root of the api: the only place that turns settings into adapters."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from fastapi import FastAPI

from service.adapters.artifacts import open_artifacts
from service.adapters.catalogue_sql import SqlCatalogue
from service.adapters.clock import SystemClock
from service.adapters.database import connect
from service.adapters.index_faiss import FaissIndex
from service.adapters.schema import upgrade
from service.api.app import create_app
from service.api.deps import Limits, Ports
from service.config import Settings
from service.domain.ports import Artifacts, Inference
from service.library.reindex import catch_up

log = structlog.get_logger(__name__)


def open_app(settings: Settings, open_worker: Callable[[Artifacts], Inference]) -> FastAPI:
    """The app on the stores that the settings name, its tables made and its index filled.

    open_worker: makes the worker once the artifact store is there, since both read from it.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    upgrade(settings.catalogue_url)
    catalogue = SqlCatalogue(connect(settings.catalogue_url))
    artifacts = open_artifacts(settings.artifacts_place, endpoint_url=settings.s3_endpoint_url)
    worker = open_worker(artifacts)
    index = FaissIndex(worker.served()[0].embedder)
    log.info("api.index_filled", seq=catch_up(catalogue, index))
    ports = Ports(catalogue=catalogue, artifacts=artifacts, index=index, worker=worker, clock=SystemClock())
    return create_app(ports, _limits(settings))


def _limits(settings: Settings) -> Limits:
    return Limits(settings.max_artifact_bytes, settings.max_card_bytes, settings.max_request_bytes)
