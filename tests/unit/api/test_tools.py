"""Forced calls of tools: the schema of the answer, and OpenAI's form of what the model writes."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema_rs import validator_for
from starlette.testclient import TestClient

from tests.support.scripted_worker import ScriptedWorker
from tests.unit.api.test_stream import api_with
from vlibrary.api.openai.tools import CallText, FunctionIn, to_call_schema
from vlibrary.domain.errors import InvalidInput

COLOUR = {"type": "object", "properties": {"hue": {"$ref": "#/$defs/Hue"}}, "$defs": {"Hue": {"enum": ["red", 7]}}}
PAINT = FunctionIn(name="paint", description="Paints.", parameters=COLOUR)
STOP = FunctionIn(name="stop")
TREE = FunctionIn(name="grow-1", parameters={"properties": {"left": {"$ref": "#"}}, "additionalProperties": False})


@pytest.mark.parametrize(
    ("functions", "document", "valid"),
    [
        ([PAINT], {"hue": 7}, True),
        ([PAINT], {"hue": 8}, False),
        ([STOP], {}, True),
        ([STOP], {"x": 1}, False),
        ([PAINT, STOP], {"name": "paint", "arguments": {"hue": "red"}}, True),
        ([PAINT, STOP], {"name": "stop", "arguments": {"hue": "red"}}, False),
        ([PAINT, STOP], {"name": "halt", "arguments": {}}, False),
        ([STOP, TREE], {"name": "grow-1", "arguments": {"left": {"left": {}}}}, True),
        ([STOP, TREE], {"name": "grow-1", "arguments": {"left": {"right": {}}}}, False),
    ],
)
def test_the_schema_is_that_of_the_calls(functions: list[FunctionIn], document: Any, valid: bool) -> None:
    assert validator_for(json.loads(to_call_schema(functions))).is_valid(document) is valid


def cut(text: str, places: list[int]) -> list[str]:
    borders = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[begin:end] for begin, end in pairwise(borders)]


ARGUMENTS = st.dictionaries(st.text(max_size=3), st.recursive(st.text(max_size=3), st.lists), max_size=3)
SPACES = st.sampled_from(["", " ", "\n  "])


@given(ARGUMENTS, st.lists(SPACES, min_size=8, max_size=8), st.lists(st.integers(0, 10**4), max_size=6), st.booleans())
@example({"a": "}"}, [""] * 8, list(range(60)), True)
def test_any_pieces_of_a_call_are_the_whole_call(
    arguments: dict[str, Any], spaces: list[str], places: list[int], wrapped: bool
) -> None:
    written = json.dumps(arguments)
    text, a = written, spaces
    if wrapped:
        text = f'{{{a[0]}"name"{a[1]}:{a[2]}"stop"{a[3]},{a[4]}"arguments"{a[5]}:{a[6]}{written}{a[7]}}}'
    functions = [PAINT, STOP] if wrapped else [STOP]
    (whole,) = CallText(functions).whole(text)["tool_calls"]
    assert whole["function"] == {"name": "stop", "arguments": written}
    reader = CallText(functions)
    deltas = [*(reader.read(piece) for piece in cut(text, places)), reader.read("", last=True)]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["function"].get("name") for call in calls] == ["stop", *[None] * (len(calls) - 1)]
    assert "".join(call["function"]["arguments"] for call in calls) == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "stop", "arguments": {"a": {}', '{"a": {}'),
        ('{"name": "stop", "arguments": {"a": {}}', '{"a": {}}'),
        ('{"name": "stop", "argum', None),
    ],
)
def test_a_call_that_reaches_the_limit_keeps_its_beginning(text: str, message: str | None) -> None:
    found = CallText([PAINT, STOP]).whole(text)
    if message is None:
        assert found == {"content": text}
    else:
        assert found["tool_calls"][0]["function"]["arguments"] == message


TOOLS: Any = [
    {"type": "function", "function": {"name": "paint", "parameters": COLOUR}},
    {"type": "function", "function": {"name": "stop"}},
]


def chat(api: TestClient, **more: Any) -> Any:
    body = {"messages": [{"role": "user", "content": "a"}], "tools": TOOLS}
    return api.post("/v1/chat/completions", json=body | more)


def test_without_a_call_the_tools_change_nothing_and_are_listed() -> None:
    worker = ScriptedWorker(["a"])
    with api_with(worker) as api:
        answer = chat(api, tool_choice="none").json()
    assert answer["vlibrary"]["ignored"] == ["tools"]
    assert answer["choices"][0]["message"]["tool_calls"] is None
    assert worker.calls[0].decoding.json_schema is None


def test_a_schema_that_the_engine_refuses_is_named_as_that_of_the_tools() -> None:
    refused = InvalidInput("The JSON schema is invalid at /$defs/paint.", "Change it.", field="json_schema")
    with api_with(ScriptedWorker(then=refused)) as api:
        for stream in (False, True):
            assert chat(api, tool_choice="required", stream=stream).json()["error"]["param"] == "tools"
