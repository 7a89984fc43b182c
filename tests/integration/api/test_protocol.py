"""Requests as bytes on a connection: any chunk sizes, and refusals of what is no request."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest

from tests.support.library import memory_library
from tests.support.live_server import running
from vlibrary.api.app import create_app
from vlibrary.api.http.server import ApiServer

TIMEOUT_S = 10.0
PROMPT = "Which hue? " * 40
BODY = json.dumps({"prompt": PROMPT, "steering": "off"}).encode()
HEAD = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ApiServer(create_app(memory_library()), address="127.0.0.1", port=0, grace_s=1)
    with running(server) as url:
        yield int(url.rpartition(":")[2])


def exchange(port: int, *pieces: bytes, end: bool = False) -> HTTPResponse:
    """Send the pieces and return the answer, read whole. end: close the sending side after them."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        for piece in pieces:
            connection.sendall(piece)
        if end:
            connection.shutdown(socket.SHUT_WR)
        answer = HTTPResponse(connection)
        answer.begin()
        answer.body = answer.read()  # type: ignore[attr-defined]
        return answer


def content(answer: HTTPResponse) -> dict[str, object]:
    found: dict[str, object] = json.loads(answer.body)  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("seed", range(8))
def test_any_chunk_sizes_give_the_same_answer(port: int, seed: int) -> None:
    rng = random.Random(seed)
    pieces, rest = [CHUNKED], BODY
    while rest:
        size = rng.choice([1, 2, 9, 16, 255, len(rest)])
        chunk, rest = rest[:size], rest[size:]
        spelled = f"{len(chunk):x}" if rng.random() < 0.5 else f"000{len(chunk):X};name=value"
        pieces.append(f"{spelled}\r\n".encode() + chunk + b"\r\n")
    answer = exchange(port, *pieces, b"0\r\n\r\n")
    assert answer.status == 200
    assert content(answer)["text"] == PROMPT.rstrip()


@pytest.mark.parametrize(
    "chunk", [b"zz\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"2\r\n{}}\r\n0\r\n\r\n", b"\r\n\r\n"]
)
def test_wrong_chunks_are_refused(port: int, chunk: bytes) -> None:
    answer = exchange(port, CHUNKED + chunk)
    assert (answer.status, content(answer)["status"]) == (400, 400)


def test_a_cut_body_is_never_answered(port: int) -> None:
    sized = HEAD + f"Content-Length: {len(BODY)}\r\n\r\n".encode()
    for pieces in ((sized, BODY[:-1]), (CHUNKED, f"{len(BODY):x}\r\n".encode(), BODY, b"\r\n")):
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
            connection.sendall(b"".join(pieces))
            connection.shutdown(socket.SHUT_WR)
            assert b" 200 " not in connection.recv(4_096)


REFUSED = {
    "a URL of 40 KB": (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "a URL of 2 MB": (b"GET /" + b"a" * 2_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "headers of 80 KB": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 80_000 + b"\r\n\r\n", 431),
    "headers of 2 MB": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 2_000_000 + b"\r\n\r\n", 431),
    "no HTTP": (b"hello\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_request_gets_a_problem_document(port: int, case: str) -> None:
    data, status = REFUSED[case]
    answer = exchange(port, data)
    found = content(answer)
    assert (answer.status, found["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == found["request_id"]
    assert found["cure"]
