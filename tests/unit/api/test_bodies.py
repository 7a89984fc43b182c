"""Where bodies are read: large ones in a thread, so that streams do not stand still meanwhile."""

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


class Noted(BaseModel):
    """A body that knows the thread in which it was read."""

    text: str
    thread: int = 0

    @model_validator(mode="after")
    def _note(self) -> Noted:
        self.thread = threading.get_ident()
        return self


async def read(request: Request) -> Response:
    body = await read_json(request, Noted)
    return PlainTextResponse("here" if body.thread == threading.get_ident() else "elsewhere")


@pytest.mark.parametrize(("length", "where"), [(1_000, "here"), (2 * 2**20, "elsewhere")])
def test_a_large_body_is_read_in_another_thread_than_the_streams_are_sent_from(length: int, where: str) -> None:
    with TestClient(Starlette(routes=[Route("/", read, methods=["POST"])])) as client:
        assert client.post("/", json={"text": "a" * length}).text == where
