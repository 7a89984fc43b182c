"""Starts, freezes and kills api processes.

They are forked from a server process that has imported everything but not started threads or used FAISS, so that
starting one takes 100 ms.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import ExitStack, suppress
from typing import Any

from tests.faults.processes import app
from tests.faults.processes.app import Life
from vlibrary.client import Client

PATIENCE_S = 30.0
_CONTEXT = multiprocessing.get_context("forkserver")


class Door(Client):
    """The service's client, with methods for the test routes. All of them raise ServiceError."""

    def save_snapshot(self) -> None:
        self.request("POST", "/side/snapshot")

    def collect(self, grace_s: float, purged_s: float = 0.0) -> dict[str, Any]:
        """Run a collection with grace periods for objects, and for objects of purged vectors; return its result."""
        report: dict[str, Any] = self.request(
            "POST", "/side/collect", json={"grace_s": grace_s, "purged_s": purged_s}
        ).json()
        return report


class Died(Exception):
    """The process ended before it accepted connections."""


class Api:
    """One running process. door: a thread-safe client."""

    def __init__(self, life: Life, *, patience_s: float = PATIENCE_S) -> None:
        """Start it and wait until it accepts connections. Raises Died if its failpoint strikes before."""
        _CONTEXT.set_forkserver_preload([app.__name__, "tests.faults.processes.api_process"])
        self.life = life
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=app.run, args=(life, theirs), daemon=True)
        self._process.start()
        theirs.close()
        try:
            port = self._port(patience_s)
        except Died:
            self._reap()
            raise
        self.door = Door(f"http://127.0.0.1:{port}", timeout=patience_s)
        self._ending = ExitStack()
        self._ending.enter_context(self.door)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def send_kill(self) -> None:
        """Send SIGKILL, from any thread."""
        self._signal(signal.SIGKILL)

    def kill(self) -> None:
        """Send SIGKILL and wait for the process to end, if it has not."""
        self._ending.close()
        self._reap()

    @property
    def struck(self) -> str | None:
        """The step at which the failpoint struck, if it did."""
        with suppress(FileNotFoundError):
            return self.life.struck.read_text()
        return None

    def _reap(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()

    def _port(self, patience_s: float) -> int:
        try:
            if self._pipe.poll(patience_s):
                port: int = self._pipe.recv()
                return port
        except (EOFError, ConnectionResetError):
            pass
        raise Died(self.life.name)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, ValueError):  # it has ended; ValueError: and was reaped
            assert self._process.pid is not None
            os.kill(self._process.pid, number)
