"""Both clients and `vlibrary generate` against a live service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.library import memory_library
from tests.support.live_server import live
from tests.support.scripted_worker import ScriptedWorker, Then
from vlibrary.api.app import create_app
from vlibrary.cli import app as command_line
from vlibrary.client import AsyncClient, Client, ServiceError
from vlibrary.domain.errors import InvalidInput, Overloaded, WorkerLost
from vlibrary.domain.wire import TextPiece
from vlibrary.schemas.generate import GenerateOut


@contextmanager
def serve(worker: ScriptedWorker) -> Iterator[Client]:
    with live(create_app(memory_library(worker=worker))) as url, Client(url) as client:
        yield client


def untimed(answer: object) -> dict[str, Any]:
    assert isinstance(answer, GenerateOut)
    return answer.model_dump(exclude={"timings"})


def test_a_stream_yields_text_and_then_the_answer() -> None:
    with serve(ScriptedWorker(["lo", "rp"])) as client:
        with client.stream("Which hue?", steering="off", decoding={"stop": ["."]}) as events:
            *pieces, answer = events
        assert pieces == [TextPiece("lo", 1), TextPiece("rp", 2)]
        assert untimed(answer) == untimed(client.generate("Which hue?", steering="off"))


def test_the_async_client_streams_the_same_items() -> None:
    async def stream(url: str) -> None:
        async with AsyncClient(url) as client:
            async with client.stream("Which hue?", steering="off") as events:
                *pieces, answer = [event async for event in events]
            assert pieces == [TextPiece("lo", 1), TextPiece("rp", 2)]
            assert untimed(answer) == untimed(await client.generate("Which hue?", steering="off"))

    with serve(ScriptedWorker(["lo", "rp"])) as client:
        asyncio.run(stream(client.url))


def test_leaving_a_stream_cancels_the_request() -> None:
    worker = ScriptedWorker(["lo"], Then.WAIT)
    with serve(worker) as client:
        with client.stream("a", steering="off") as events:
            assert next(events) == TextPiece("lo", 1)
        assert worker.closed.wait(5)


def test_an_error_before_the_stream_is_raised_on_entering_it() -> None:
    full = ScriptedWorker([], Overloaded("Too many.", "Wait."))
    with serve(full) as client, pytest.raises(ServiceError) as refused:
        client.stream("a", steering="off").__enter__()
    error = refused.value
    assert (error.status, error.code, error.detail, error.cure) == (429, "overloaded", "Too many.", "Wait.")


def test_an_error_within_a_stream_is_raised_while_iterating() -> None:
    dying = ScriptedWorker(["lo"], WorkerLost("Gone.", "Ask again."))
    with serve(dying) as client, client.stream("a", steering="off") as events:
        assert next(events) == TextPiece("lo", 1)
        with pytest.raises(ServiceError, match=r"Gone\. Ask again\.") as lost:
            next(events)
    assert (lost.value.status, lost.value.code) == (503, "worker-lost")


def test_both_clients_report_an_unreachable_service() -> None:
    async def stream() -> None:
        async with AsyncClient("http://127.0.0.1:9") as client, client.stream("a"):
            pass

    with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceError, match="vlibrary serve") as unreachable:
        client.stream("a").__enter__()
    assert (unreachable.value.status, unreachable.value.code) == (0, "service-error")
    with pytest.raises(ServiceError, match="vlibrary serve"):
        asyncio.run(stream())


def test_the_command_line_prints_the_stream_and_the_steering() -> None:
    worker = ScriptedWorker(["[b]lo", " rp\n", "lem"])
    with serve(worker) as client:
        arguments = ["generate", "Which hue?", "--unsteered", "--stream", "--stop", ".", "--url", client.url]
        done = CliRunner().invoke(command_line, arguments, catch_exceptions=False)
    assert done.stdout.startswith("[b]lo rp\nlem\nnot steered")
    assert worker.calls[0].decoding.stop == (".",)
    both = CliRunner().invoke(command_line, ["generate", "a", "--stream", "--json"])
    assert isinstance(both.exception, InvalidInput)
