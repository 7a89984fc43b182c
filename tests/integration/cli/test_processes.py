"""The command line in real processes and on real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.worker_process import Running, free_port
from vlibrary.cli.sockets import bind_sockets
from vlibrary.domain.errors import InvalidInput

VARIABLES = "VLIBRARY_HOST, VLIBRARY_PORT"


def test_a_failed_command_prints_the_cause_and_exits_with_code_1(tmp_path: Path) -> None:
    settings = {"VLIBRARY_DATA_DIR": str(tmp_path), "VLIBRARY_DATABASE_URL": "sqlite:////nowhere/catalogue.db"}
    command = [sys.executable, "-m", "vlibrary.cli", "gc"]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    title, cause, cure = done.stderr.splitlines()
    assert "database failed" in title
    assert cause == "Cause: (sqlite3.OperationalError) unable to open database file"
    assert cure.startswith("What to do: ")


def test_a_port_in_use_is_reported_before_the_service_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port: int = other.getsockname()[1]
        service = Running("serve", tmp_path, {"VLIBRARY_DATA_DIR": str(tmp_path / "data")}, port=port)
        service.start()
        assert service.wait_end() == 1
    assert f"Cannot listen on 127.0.0.1:{port}: address already in use" in service.log
    assert f"--port ({VARIABLES})" in service.log
    assert "VLibrary on" not in service.log
    assert not (tmp_path / "data").exists()


def test_a_bound_port_refuses_connections_until_a_server_listens() -> None:
    port = free_port()
    with bind_sockets("127.0.0.1", port, variables=VARIABLES) as (sock,):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        sock.listen()
        socket.create_connection(("127.0.0.1", port)).close()
    with bind_sockets("127.0.0.1", port, variables=VARIABLES):  # it was released
        pass


def test_only_the_first_of_two_processes_can_listen_on_a_port() -> None:
    port = free_port()
    with bind_sockets("127.0.0.1", port, variables=VARIABLES) as (first,):
        second = bind_sockets("127.0.0.1", port, variables=VARIABLES)
        (sock,) = second.__enter__()
        first.listen()
        with pytest.raises(OSError, match="in use") as caught:
            sock.listen()
        with pytest.raises(InvalidInput, match=f"127.0.0.1:{port}"):
            second.__exit__(type(caught.value), caught.value, caught.tb)


def test_an_address_of_another_machine_is_an_error() -> None:
    with (
        pytest.raises(InvalidInput, match="Cannot listen on 192"),
        bind_sockets("192.0.2.1", 80, variables=VARIABLES),
    ):
        pass
