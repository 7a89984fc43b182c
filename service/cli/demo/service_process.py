"""A real service in a process of its own, on a free port and a folder of its own, for as long as a `with` lasts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlibrary.client import Client, ServiceError
from vlibrary.domain.errors import Unavailable

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0


@contextmanager
def running_service(data_dir: Path) -> Iterator[Client]:
    """A client of a fresh `vlibrary serve`; its log is service.log in data_dir.

    Raises Unavailable with the end of the log when the service does not become ready.
    """
    port = _free_port()
    log = data_dir / "service.log"
    environment = os.environ | {"VLIBRARY_DATA_DIR": str(data_dir)}
    command = [sys.executable, "-m", "vlibrary.cli", "serve", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            _wait_until_ready(client, process, log)
            yield client
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(client: Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get_readiness().ready:
                return
        except ServiceError:
            time.sleep(0.2)
    tail = log.read_text(errors="replace")[-2_000:]
    raise Unavailable(f"The service did not become ready. The end of its log:\n{tail}", "Mend what the log names.")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
