"""Starts, freezes and kills api processes.

A fork server that has imported everything, but started neither threads nor FAISS, makes a start 100 ms short.
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
    """The service's client, with a key for the side door; all of it raises ServiceError."""

    def keep_snapshot(self) -> None:
        self.request("POST", "/side/snapshot")

    def collect(self, grace_s: float, purged_s: float = 0.0) -> dict[str, Any]:
        """What the collector did, with this grace for objects, and this one for those of purged vectors."""
        report: dict[str, Any] = self.request(
            "POST", "/side/collect", json={"grace_s": grace_s, "purged_s": purged_s}
        ).json()
        return report


class Died(Exception):
    """The process ended before it took connections."""


class Api:
    """One running process. door: a client that threads may share."""

    def __init__(self, life: Life, *, patience_s: float = PATIENCE_S) -> None:
        """Start it and wait until it takes connections. Raises Died when its failpoint strikes before."""
        _CONTEXT.set_forkserver_preload([app.__name__, "tests.faults.processes.api_process"])
        self.life = life
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=app.run, args=(life, theirs), daemon=True)
        self._process.start()
        theirs.close()
        try:
            port = self._port(patience_s)
        except Died:
            self._bury()
            raise
        self.door = Door(f"http://127.0.0.1:{port}", timeout=patience_s)
        self._ending = ExitStack()
        self._ending.enter_context(self.door)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def strike(self) -> None:
        """kill -9, from any thread."""
        self._signal(signal.SIGKILL)

    def kill(self) -> None:
        """kill -9, and wait until it is gone; fine when it is."""
        self._ending.close()
        self._bury()

    @property
    def struck(self) -> str | None:
        """The step at which its failpoint struck, if it did."""
        with suppress(FileNotFoundError):
            return self.life.struck.read_text()
        return None

    def _bury(self) -> None:
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
        with suppress(ProcessLookupError, ValueError):  # it is gone; ValueError: and buried
            assert self._process.pid is not None
            os.kill(self._process.pid, number)
