"""Parsing of request bodies: large ones in a thread, so that the event loop is not blocked."""

from __future__ import annotations

import threading

import pytest
from pydantic import BaseModel, model_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from vlibrary.api.http.bodies import read_json


class Body(BaseModel):
    """A body that records the thread in which it was parsed."""

    text: str
    thread: int = 0

    @model_validator(mode="after")
    def _record(self) -> Body:
        self.thread = threading.get_ident()
        return self


async def read(request: Request) -> Response:
    body = await read_json(request, Body)
    return PlainTextResponse("event loop" if body.thread == threading.get_ident() else "thread")


@pytest.mark.parametrize(("length", "where"), [(1_000, "event loop"), (2 * 2**20, "thread")])
def test_large_bodies_are_parsed_in_a_thread(length: int, where: str) -> None:
    with TestClient(Starlette(routes=[Route("/", read, methods=["POST"])])) as client:
        assert client.post("/", json={"text": "a" * length}).text == where
