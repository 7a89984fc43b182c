"""The client and the command line, on a streamed answer over a real connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from tests.support.library import memory_library
from tests.support.live_server import live
from tests.support.scripted_worker import ScriptedWorker, Then
from vlibrary.api.app import create_app
from vlibrary.cli import app as command_line
from vlibrary.client import Client, ServiceError
from vlibrary.domain.errors import InvalidInput, Overloaded, WorkerLost
from vlibrary.domain.wire import TextPiece


@contextmanager
def client_of(worker: ScriptedWorker) -> Iterator[Client]:
    with live(create_app(memory_library(worker=worker))) as url, Client(url) as client:
        yield client


def test_a_stream_gives_pieces_and_then_the_answer() -> None:
    with client_of(ScriptedWorker(["lo", "rp"])) as client:
        with client.stream("Which hue?", steering="off", decoding={"stop": ["."]}) as events:
            *pieces, answer = events
        assert pieces == [TextPiece("lo", 1), TextPiece("rp", 2)]
        assert answer == client.generate("Which hue?", steering="off")


def test_a_stream_that_is_left_is_cancelled() -> None:
    worker = ScriptedWorker(["lo"], Then.WAIT)
    with client_of(worker) as client:
        with client.stream("a", steering="off") as events:
            assert next(events) == TextPiece("lo", 1)
        assert worker.closed.wait(5)


def test_failures_before_and_in_the_middle_of_a_stream_are_raised_with_their_cure() -> None:
    full = ScriptedWorker([], Overloaded("Too many.", "Wait."))
    with client_of(full) as client, pytest.raises(ServiceError, match=r"Too many\. Wait\.") as refused:
        client.stream("a", steering="off").__enter__()
    assert refused.value.status == 429
    dying = ScriptedWorker(["lo"], WorkerLost("Gone.", "Ask again."))
    with client_of(dying) as client, client.stream("a", steering="off") as events:
        assert next(events) == TextPiece("lo", 1)
        with pytest.raises(ServiceError, match=r"Gone\. Ask again\.") as lost:
            next(events)
    assert lost.value.status == 503


def test_a_service_that_is_not_there_is_told() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceError, match="vlibrary serve"):
        client.stream("a").__enter__()


def test_the_command_line_prints_a_stream_and_what_steered_it() -> None:
    worker = ScriptedWorker(["[b]lo", " rp\n", "lem"])
    with client_of(worker) as client:
        arguments = ["generate", "Which hue?", "--unsteered", "--stream", "--stop", ".", "--url", client.url]
        done = CliRunner().invoke(command_line, arguments, catch_exceptions=False)
    assert done.stdout == "[b]lo rp\nlem\nnot steered (off): The request switched steering off.\n"
    assert worker.calls[0].decoding.stop == (".",)
    both = CliRunner().invoke(command_line, ["generate", "a", "--stream", "--json"])
    assert isinstance(both.exception, InvalidInput)
