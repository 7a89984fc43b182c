"""The lifecycle of a worker in its process: loading, serving, shutting down."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import structlog

from vlibrary.domain.errors import WorkerUnavailable
from vlibrary.domain.ports.inference import Worker
from vlibrary.domain.wire import WorkerStatus

log = structlog.get_logger(__name__)


class Host:
    """Holds the worker of this process. Loading takes seconds to minutes and runs in a thread, so /livez responds.

    leaving: whether the worker is shutting down. failure: why it could not be loaded, or why its model has stopped.
    """

    def __init__(self, open_worker: Callable[[], Worker]) -> None:
        self._open = open_worker
        self._worker: Worker | None = None
        self.leaving = False
        self.failure: Exception | None = None

    def start(self) -> None:
        """Load the worker in a daemon thread."""
        threading.Thread(target=self._load, name="load", daemon=True).start()

    def worker(self) -> Worker:
        """Return the worker for a new request. Raises WorkerUnavailable while it loads and while it shuts down."""
        if self.leaving:
            raise WorkerUnavailable("The worker is shutting down.", "Use another worker.")
        return self._loaded_worker()

    def status(self) -> WorkerStatus:
        """Return the heartbeat, also during shutdown, while answers still run.

        Raises WorkerUnavailable while the worker loads, and when its model's thread has ended.
        """
        status = self._loaded_worker().status()
        return replace(status, room=0, leaving=True) if self.leaving else status

    def watch(self) -> None:
        """Set `failure` if the loaded model's thread has ended, since only a new process can recover from that."""
        if self._worker is None:
            return
        try:
            self._worker.status()
        except WorkerUnavailable as error:
            self.failure = error

    def leave(self) -> None:
        """Refuse new requests; running ones continue."""
        self.leaving = True

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def _loaded_worker(self) -> Worker:
        if self._worker is None:
            raise WorkerUnavailable("The worker is loading its models.", "Retry in a moment.")
        return self._worker

    def _load(self) -> None:
        try:
            self._worker = self._open()
        except Exception as error:  # noqa: BLE001  reported by the main thread
            self.failure = error
            return
        log.info("worker.ready", models=[info.model.model_id for info in self._worker.models()])
