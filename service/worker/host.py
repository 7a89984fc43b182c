"""A worker while it loads, while it works and while it leaves."""

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
    """Holds the worker of this process; loading takes seconds to minutes, and livez answers meanwhile.

    failure: why it could not be loaded, or cannot answer any more.
    """

    def __init__(self, open_worker: Callable[[], Worker]) -> None:
        self._open = open_worker
        self._worker: Worker | None = None
        self._leaving = False
        self.failure: Exception | None = None

    def start(self) -> None:
        """Load in a thread that does not keep the process alive."""
        threading.Thread(target=self._load, name="load", daemon=True).start()

    def worker(self) -> Worker:
        """The worker, for new work. Raises WorkerUnavailable while it loads and once it leaves."""
        if self._leaving:
            raise WorkerUnavailable("The worker is shutting down.", "Ask another worker.")
        return self._loaded()

    def status(self) -> WorkerStatus:
        """The heartbeat, which goes on while the worker leaves, since answers still run.

        Raises WorkerUnavailable while it loads, and when its model has died.
        """
        status = self._loaded().status()
        return replace(status, room=0, leaving=True) if self._leaving else status

    def watch(self) -> None:
        """Note it as the failure when the loaded worker's model has died: only a new process can mend that."""
        if self._worker is None:
            return
        try:
            self._worker.status()
        except WorkerUnavailable as error:
            self.failure = error

    @property
    def leaving(self) -> bool:
        return self._leaving

    def leave(self) -> None:
        """Take no new work; what runs goes on."""
        self._leaving = True

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def _loaded(self) -> Worker:
        if self._worker is None:
            raise WorkerUnavailable("The worker is still loading its models.", "Ask again in a moment.")
        return self._worker

    def _load(self) -> None:
        try:
            self._worker = self._open()
        except Exception as error:  # noqa: BLE001  whatever it is, whoever started the process must be told
            self.failure = error
            return
        log.info("worker.ready", models=[info.model.model_id for info in self._worker.models()])
