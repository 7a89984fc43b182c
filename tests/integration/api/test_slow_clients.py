"""Clients that send slowly, do not read, or open many connections: others are served all the same."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.support.library import memory_library
from tests.support.live_server import running
from tests.support.scripted_worker import ScriptedWorker
from vlibrary.api.app import create_app
from vlibrary.api.http.deps import Limits
from vlibrary.api.http.middleware.body_intake import FREE_BYTES, Pace
from vlibrary.api.http.server import ApiServer, ConnectionLimits

OFF = {"prompt": "a", "steering": "off"}
TIMEOUT_S = 5.0
HEAD = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def api(limits: Limits | None = None, connections: ConnectionLimits | None = None) -> Iterator[tuple[str, int]]:
    app = create_app(memory_library(worker=ScriptedWorker(["a"])), limits)
    server = ApiServer(app, address="", port=0, grace_s=0.1, limits=connections or ConnectionLimits())
    with running(server) as url:
        yield url, int(url.rpartition(":")[2])


def connect(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    connection.sendall(data)
    return connection


def read_all(connection: socket.socket) -> bytes:
    found = b""
    try:
        while piece := connection.recv(65_536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def is_live(connection: socket.socket) -> bool:
    """Return whether the answer to GET has come."""
    found = b""
    while not found.endswith(b'{"live":true}'):
        piece = connection.recv(65_536)
        if not piece:
            return False
        found += piece
    return True


def test_unfinished_bodies_leave_the_places_to_others() -> None:
    with api(Limits(max_requests=2)) as (url, port), ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(port, HEAD + b"{"))
        assert httpx.post(f"{url}/generate", json=OFF, timeout=TIMEOUT_S).status_code == 200


def test_a_body_that_arrives_too_slowly_is_refused_and_its_connection_closed() -> None:
    with (
        api(Limits(body_start_s=0.3), ConnectionLimits(head_s=0.3)) as (_, port),
        connect(port, HEAD) as connection,
    ):
        began = time.monotonic()
        for _ in range(4):
            time.sleep(0.05)
            connection.sendall(b"{")
        answer = read_all(connection)
        assert 0.2 < time.monotonic() - began < TIMEOUT_S
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"/problems/slow-request" in answer


def test_the_time_for_a_body_grows_with_what_arrived() -> None:
    pace = Pace(start_s=10, rate=1_000, most_s=120)
    assert [pace.allowed_s(received) for received in (0, 5_000, 10**9)] == [10, 15, 120]


@pytest.mark.parametrize(
    ("limits", "cure"),
    [(Limits(body_start_s=0.2), "bytes a second"), (Limits(body_start_s=0.2, timeout_s=0.1), "VLIBRARY_TIMEOUT_S")],
)
def test_the_limit_that_a_slow_body_exceeded_is_named(limits: Limits, cure: str) -> None:
    with api(limits, ConnectionLimits(head_s=0.2)) as (_, port), connect(port, HEAD) as connection:
        assert cure in read_all(connection).decode()


def test_the_server_keeps_idle_connections_for_longer_than_clients_do() -> None:
    app = create_app(memory_library(worker=ScriptedWorker(["a"])))
    server = ApiServer(app, address="", port=0, grace_s=0.1)
    assert server.config.timeout_keep_alive > 60  # load balancers; httpx and OpenAI's client: 5


def test_a_refused_request_whose_body_arrives_later_leaves_its_connection_open() -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    with api(connections=ConnectionLimits(head_s=0.3)) as (_, port), connect(port, head) as connection:
        assert connection.recv(65_536).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"{}")
        time.sleep(0.5)
        connection.sendall(GET)
        assert is_live(connection)


def test_an_idle_connection_closes_after_the_rest_of_a_refused_body() -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    with api(connections=ConnectionLimits(keep_alive_s=1)) as (_, port), connect(port, head) as connection:
        assert connection.recv(65_536).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"{}")
        began = time.monotonic()
        read_all(connection)
        assert 0.5 < time.monotonic() - began < TIMEOUT_S


def test_bodies_beyond_the_budget_get_429_until_the_others_are_gone() -> None:
    with api(Limits(bodies_bytes=500_000)) as (url, port):
        with connect(port, HEAD + b"{" + b" " * 450_000) as _held:
            time.sleep(0.2)
            large = httpx.post(f"{url}/generate", json=OFF | {"images": ["A" * 200_000]}, timeout=TIMEOUT_S)
            assert (large.status_code, large.json()["type"]) == (429, "/problems/overloaded")
            assert "retry-after" in large.headers
            small = httpx.post(f"{url}/generate", content=b'{"prompt":"%s"}' % (b"a " * 20_000), timeout=TIMEOUT_S)
            assert len(b"a " * 20_000) < FREE_BYTES
            assert small.status_code == 200
        deadline = time.monotonic() + TIMEOUT_S
        body = OFF | {"images": ["A" * 200_000]}
        while httpx.post(f"{url}/generate", json=body, timeout=TIMEOUT_S).status_code == 429:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-A", GET + b"GET /a"])
def test_unfinished_headers_are_closed_in_time_even_if_they_keep_coming(sent: bytes) -> None:
    with api(connections=ConnectionLimits(head_s=0.4)) as (_, port), connect(port, sent) as connection:
        began = time.monotonic()
        connection.settimeout(0.05)
        while time.monotonic() - began < TIMEOUT_S:
            try:
                if sent:
                    connection.sendall(b"a")
                if not connection.recv(65_536):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert 0.3 < time.monotonic() - began < TIMEOUT_S - 1


def test_a_finished_request_stops_the_timer_of_its_headers() -> None:
    with api(connections=ConnectionLimits(head_s=0.3)) as (_, port), connect(port, GET) as connection:
        assert is_live(connection)
        time.sleep(0.5)
        connection.sendall(GET)
        assert is_live(connection)


def test_a_new_connection_replaces_the_one_that_is_idle_for_longest() -> None:
    with api(connections=ConnectionLimits(connections=3)) as (_, port), ExitStack() as stack:
        opened = []
        for _ in range(3):
            opened.append(stack.enter_context(connect(port, GET)))
            assert is_live(opened[-1])
        opened[0].sendall(GET)
        assert is_live(opened[0])
        with connect(port, GET) as new:
            assert is_live(new)
        assert read_all(opened[1]) == b""
        opened[0].sendall(GET)
        assert is_live(opened[0])


def test_a_connection_is_refused_if_all_others_have_requests() -> None:
    with api(connections=ConnectionLimits(connections=2)) as (_, port), ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connect(port, HEAD + b"{"))
        time.sleep(0.2)
        with connect(port) as refused:
            answer = read_all(refused)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"2 open connections" in answer


def test_a_client_that_does_not_read_is_disconnected() -> None:
    with api(connections=ConnectionLimits(stall_s=0.3)) as (_, port), socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(TIMEOUT_S)
        connection.connect(("127.0.0.1", port))
        with pytest.raises(ConnectionError):
            _send_until_closed(connection)


def _send_until_closed(connection: socket.socket) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
