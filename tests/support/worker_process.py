"""`vlibrary work` and `vlibrary serve` as real processes that tests can stop, kill and restart."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.support.worker_server import until

START_S = 90.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@dataclass
class Running:
    """One `vlibrary VERB --port PORT` process. The folder contains its data and its log.

    before: Python code that the process runs first, for faults that no request can cause.
    """

    verb: str
    folder: Path
    settings: Mapping[str, str]
    port: int = field(default_factory=free_port)
    before: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / f"{self.port}.log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start the process without waiting for it."""
        environment = os.environ | {"VLIBRARY_DATA_DIR": str(self.folder)} | dict(self.settings)
        program = f"{self.before}\nfrom vlibrary.cli import main\nmain()"
        command = [sys.executable, "-c", program, self.verb, "--port", str(self.port)]
        with (self.folder / f"{self.port}.log").open("ab") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def revive(self) -> None:
        """Start the process if it is not running."""
        if self.process is None or self.process.poll() is not None:
            self.start()

    def wait_ready(self) -> None:
        until(self._is_ready, START_S)

    def wait_end(self, seconds: float = START_S) -> int:
        """The exit status."""
        assert self.process is not None
        return self.process.wait(seconds)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process, whatever its state, and wait for its end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False
