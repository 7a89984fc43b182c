"""What the command line says while it works, and when it cannot."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.worker_process import Running, free_port
from vlibrary.bootstrap import open_operator_stores
from vlibrary.cli import output
from vlibrary.cli.errors import cause_of
from vlibrary.cli.output import LINE_INTERVAL_S, ProgressLines, print_rows, progress, run_steps
from vlibrary.cli.sockets import bind_sockets
from vlibrary.domain.errors import CatalogueUnavailable, InvalidInput, Unavailable

VARIABLES = "VLIBRARY_HOST, VLIBRARY_PORT"
ID, WHEN = "01M83MXE3KNAV6W8M2Q5R7S9A1", "2026-11-23T07:58:28Z"


def test_without_a_terminal_quick_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_steps(iter([1, 2, 3]), str) == 3
    assert capsys.readouterr().err == ""


def test_without_a_terminal_long_work_writes_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    written: list[str] = []
    tell = ProgressLines(written.append, lambda: now)
    for now in (
        1.0,
        LINE_INTERVAL_S - 0.1,
        LINE_INTERVAL_S,
        LINE_INTERVAL_S + 1,
        2 * LINE_INTERVAL_S + 5,
        3 * LINE_INTERVAL_S,
        3 * LINE_INTERVAL_S + 5,
    ):
        tell(f"at {now:g}")
    assert written == ["at 10", "at 25", "at 35"]
    monkeypatch.setattr(output, "LINE_INTERVAL_S", 0.0)
    key = "go on with --after " + "k" * 300
    run_steps(iter([key]), str)
    assert capsys.readouterr().err == f"{key}\n"


def test_on_a_terminal_progress_is_whole_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(output, "errors", Console(file=screen, force_terminal=True, width=80))
    with progress() as tell:
        tell("[b]halfway " + "k" * 100)
    assert "[b]halfway" in screen.getvalue()
    assert "…" not in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")  # the line is wiped out


@pytest.mark.parametrize("width", [20, 80, 200])
def test_a_table_cuts_nothing_however_narrow_the_terminal_is(width: int) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width)
    print_rows(("name", "created", "id"), [("colour" * 10, WHEN, ID)], none="None.", on=console)
    assert [word for word in ("colour" * 10, WHEN, ID) if word not in screen.getvalue()] == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////nowhere/catalogue.db", "unable to open database file"),
        ("postgresql+psycopg://ann:secret@127.0.0.1:1/db", "Connection refused"),
        ("postgresql+psycopg://ann:sec@ret@127.0.0.1:1/db", "more than one @"),
    ],
)
def test_what_a_driver_says_is_told_without_the_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, said: str
) -> None:
    monkeypatch.setenv("VLIBRARY_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("VLIBRARY_DATABASE_URL", url)
    with pytest.raises(CatalogueUnavailable) as caught:
        open_operator_stores()
    cause = cause_of(caught.value, url)
    assert cause is not None
    assert said in cause
    assert [word for word in ("secret", "sec@", "ret", "\n") if word in cause] == []


def test_only_the_first_line_of_a_cause_is_told_and_only_for_stores() -> None:
    def cause(error: InvalidInput | Unavailable, said: str) -> str | None:
        error.__cause__ = OSError(said)
        return cause_of(error, "")

    down = Unavailable("a", "b")
    assert cause_of(down, "") is None
    assert cause(down, 'No route to "http://key:pass@word@store/x".\n[SQL: ...]') == 'No route to "***@store/x".'
    assert cause(down, "") == "OSError"
    assert cause(InvalidInput("a", "b"), "no such file") is None


def test_a_command_tells_the_cause_and_ends_with_code_1(tmp_path: Path) -> None:
    settings = {"VLIBRARY_DATA_DIR": str(tmp_path), "VLIBRARY_DATABASE_URL": "sqlite:////nowhere/catalogue.db"}
    command = [sys.executable, "-m", "vlibrary.cli", "gc"]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    title, cause, cure = done.stderr.splitlines()
    assert "did not answer" in title
    assert cause == "Cause: (sqlite3.OperationalError) unable to open database file"
    assert cure.startswith("What to do: ")


def test_a_service_whose_port_is_taken_says_so_before_it_begins(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port: int = other.getsockname()[1]
        service = Running("serve", tmp_path, {"VLIBRARY_DATA_DIR": str(tmp_path / "data")}, port=port)
        service.start()
        assert service.wait_end() == 1
    assert f"Cannot listen on 127.0.0.1:{port}: address already in use" in service.log
    assert f"--port ({VARIABLES})" in service.log
    assert "VLibrary on" not in service.log
    assert not (tmp_path / "data").exists()


def test_a_port_that_is_held_refuses_until_a_server_listens() -> None:
    port = free_port()
    with bind_sockets("127.0.0.1", port, variables=VARIABLES) as (sock,):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        sock.listen()
        socket.create_connection(("127.0.0.1", port)).close()
    with bind_sockets("127.0.0.1", port, variables=VARIABLES):  # it was given back
        pass


def test_of_two_who_hold_a_port_at_once_only_the_first_listens() -> None:
    port = free_port()
    with bind_sockets("127.0.0.1", port, variables=VARIABLES) as (first,):
        second = bind_sockets("127.0.0.1", port, variables=VARIABLES)
        (sock,) = second.__enter__()
        first.listen()
        with pytest.raises(OSError, match="in use") as caught:
            sock.listen()
        with pytest.raises(InvalidInput, match=f"127.0.0.1:{port}"):
            second.__exit__(type(caught.value), caught.value, caught.tb)


def test_an_address_of_another_machine_is_told() -> None:
    with (
        pytest.raises(InvalidInput, match="Cannot listen on 192"),
        bind_sockets("192.0.2.1", 80, variables=VARIABLES),
    ):
        pass
