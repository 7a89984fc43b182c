"""Forced calls of tools, as OpenAI's client reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.support.library import memory_library
from tests.support.live_server import live
from tests.support.memory.worker import MODEL
from tests.support.scripted_worker import ScriptedWorker
from tests.unit.api.test_tools import TOOLS
from vlibrary.api.app import create_app

PAINTED = ['{"name": "pa', 'int", "arguments": {"hue"', ': "red"', "}}"]


@pytest.fixture
def client() -> Iterator[OpenAI]:
    worker = ScriptedWorker(PAINTED, finish_reason="stop")
    with live(create_app(memory_library(worker=worker))) as url, OpenAI(base_url=f"{url}/v1", api_key="any") as client:
        yield client


def test_openais_client_reads_a_call(client: OpenAI) -> None:
    options: Any = {"tools": TOOLS, "tool_choice": "required", "n": 2, "messages": [{"role": "user", "content": "a"}]}
    answer = client.chat.completions.create(model=MODEL.model_id, **options)
    with client.chat.completions.stream(model=MODEL.model_id, **options) as events:
        streamed = events.get_final_completion()
    for choice in [*answer.choices, *streamed.choices]:
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        assert choice.message.tool_calls is not None
        (call,) = choice.message.tool_calls
        assert call.type == "function"
        assert (call.function.name, call.function.arguments) == ("paint", '{"hue": "red"}')
    assert len({call.id for choice in answer.choices for call in choice.message.tool_calls or ()}) == 2
