"""A service in a separate process, for as long as a `with` block lasts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from vlibrary.client import Client, ServiceError
from vlibrary.domain.errors import Unavailable

START_TIMEOUT_S = 300.0  # the model may have to be assembled first
STOP_TIMEOUT_S = 10.0


@contextmanager
def running_service(data_dir: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Client]:
    """Start `vlibrary serve` on a free port and yield a client for it; the service logs to data_dir/service.log.

    settings: its VLIBRARY_* variables.
    Raises Unavailable, with the end of the log, if the service does not become ready.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = data_dir / "service.log"
    environment = demo_environment(os.environ, data_dir) | dict(settings)
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


def demo_environment(environment: Mapping[str, str], data_dir: Path) -> dict[str, str]:
    """Return the environment without settings: the demo has its own stores and models, whatever the shell names.

    Only the folder of assembled models is that of the user, because assembling one takes a download.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.upper().startswith("VLIBRARY_") or name.upper() == "VLIBRARY_CACHE_DIR"
    }
    return kept | {"VLIBRARY_DATA_DIR": str(data_dir)}


def _wait_until_ready(client: Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get_readiness().ready:
                return
        except ServiceError:
            time.sleep(0.2)
    tail = log.read_text(errors="replace")[-2_000:]
    raise Unavailable(
        f"The service did not become ready. The end of its log:\n{tail}", "Fix the problem that the log reports."
    )
