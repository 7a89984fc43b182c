"""OpenAI's responses, requested by the official client over a real connection."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.responses import ResponseCompletedEvent, ResponseTextDeltaEvent

from tests.support.library import memory_library
from tests.support.live_server import live
from tests.support.memory.worker import MODEL
from tests.support.openai_client import client_of
from tests.support.samples import png
from tests.support.scripted_worker import ScriptedWorker, Then
from vlibrary.api.app import create_app
from vlibrary.domain.errors import Overloaded, WorkerLost
from vlibrary.domain.wire import Demonstration, GenerateCall, Prompt

RED = png((200, 0, 0))
ITEMS: list[Any] = [
    {
        "role": "user",
        "content": [
            {"type": "input_text", "text": "Which hue?"},
            {"type": "input_image", "image_url": f"data:image/png;base64,{base64.b64encode(RED).decode()}"},
        ],
    },
    {"role": "assistant", "content": "lorp"},
    {"role": "user", "content": "And here?"},
]
EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


def worker_call(**body: Any) -> GenerateCall:
    """Return the call that the worker receives for this request."""
    worker = ScriptedWorker(["a"])
    with client_of(memory_library(worker=worker)) as client:
        client.responses.create(**body)
    (call,) = worker.calls
    return call


def test_a_response_names_the_applied_vectors(client: OpenAI, vector_id: str) -> None:
    answer = client.responses.create(model=MODEL.model_id, input="Which hue?", metadata={"run": "7"}, store=True)
    assert answer.output_text == f"Which hue? + 1·{vector_id}"
    assert (answer.object, answer.status, answer.model) == ("response", "completed", MODEL.model_id)
    assert (answer.metadata, answer.tools, answer.error, answer.incomplete_details) == ({"run": "7"}, [], None, None)
    (message,) = answer.output
    assert message.type == "message"
    assert (message.role, message.status) == ("assistant", "completed")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0
    assert answer.model_extra is not None
    assert answer.model_extra["store"] is False
    extra = answer.model_extra["vlibrary"]
    assert (extra["applied"][0]["id"], extra["reason"]) == (vector_id, None)


def test_the_stream_has_the_documented_events_in_order() -> None:
    worker = ScriptedWorker(["lo", "rp"], Then.END, finish_reason="stop")
    with client_of(memory_library(worker=worker)) as client:
        events = list(client.responses.create(model=MODEL.model_id, input="Hue?", stream=True))
    assert [event.type for event in events] == EVENTS
    assert [event.sequence_number for event in events] == list(range(len(EVENTS)))
    assert [event.delta for event in events if isinstance(event, ResponseTextDeltaEvent)] == ["lo", "rp"]
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent)
    assert last.response.output_text == "lorp"
    assert last.response.model_extra is not None
    assert last.response.model_extra["vlibrary"]["reason"]["code"] == "no_match"
    items = {event.item_id for event in events if hasattr(event, "item_id")}
    assert items == {last.response.output[0].id}


def test_the_accumulating_stream_of_the_client_ends_with_the_whole_response(client: OpenAI, vector_id: str) -> None:
    with client.responses.stream(model=MODEL.model_id, input="Which hue?") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == f"Which hue? + 1·{vector_id}"


def test_an_answer_that_reached_its_limit_is_incomplete() -> None:
    with client_of(memory_library(worker=ScriptedWorker(["lorp"]))) as client:
        whole = client.responses.create(model=MODEL.model_id, input="Hue?", max_output_tokens=1)
        *_, last = client.responses.create(model=MODEL.model_id, input="Hue?", max_output_tokens=1, stream=True)
    assert last.type == "response.incomplete"
    for one in (whole, last.response):
        assert (one.status, one.output[0].status) == ("incomplete", "incomplete")  # type: ignore[union-attr]
        assert one.incomplete_details is not None
        assert one.incomplete_details.reason == "max_output_tokens"
        assert one.max_output_tokens == 1


def test_a_conversation_becomes_demonstrations_and_a_question() -> None:
    call = worker_call(model=MODEL.model_id, input=ITEMS, instructions="Be brief.", temperature=0, max_output_tokens=9)
    assert call.prompt == Prompt("And here?", (), (Demonstration("Be brief.\n\nWhich hue?", (RED,), "lorp"),))
    assert (call.decoding.temperature, call.decoding.max_new_tokens) == (0, 9)


def test_the_output_of_a_response_can_be_sent_back(client: OpenAI) -> None:
    first = client.responses.create(model=MODEL.model_id, input="Which hue?")
    items: list[Any] = [{"role": "user", "content": "Which hue?"}, *first.output, {"role": "user", "content": "Sure?"}]
    assert client.responses.create(model=MODEL.model_id, input=items).output_text


def test_logprobs_are_returned_if_they_are_requested(client: OpenAI) -> None:
    for more, count in (({"include": ["message.output_text.logprobs"]}, 0), ({"top_logprobs": 2}, 2)):
        body: Any = {"model": f"{MODEL.model_id}:off", "input": "one two"} | more
        part = client.responses.create(**body).output[0].content[0]
        assert [one.token for one in part.logprobs or ()] == ["one", " two"]
        assert [len(one.top_logprobs) for one in part.logprobs or ()] == [count, count]
        streamed = [
            one.token
            for event in client.responses.create(**body, stream=True)
            if isinstance(event, ResponseTextDeltaEvent)
            for one in event.logprobs
        ]
        assert streamed == ["one", " two"]


def test_an_answer_can_be_constrained_to_json() -> None:
    schema = {"type": "object", "properties": {"hue": {"type": "string"}}}
    chosen: Any = {"format": {"type": "json_schema", "name": "hue", "schema": schema, "strict": True}}
    call = worker_call(model=MODEL.model_id, input="Hue?", text=chosen)
    assert json.loads(call.decoding.json_schema or "") == schema
    call = worker_call(model=MODEL.model_id, input="Hue?", text={"format": {"type": "json_object"}})
    assert json.loads(call.decoding.json_schema or "") == {"type": "object"}


ACCEPTED: list[dict[str, Any]] = [
    {"tools": []},
    {"tool_choice": "auto"},
    {"parallel_tool_calls": True},
    {"store": False},
    {"truncation": "auto"},
    {"text": {"format": {"type": "text"}, "verbosity": "low"}},
    {"reasoning": {"effort": "low"}},
    {"include": ["reasoning.encrypted_content"]},
    {"prompt_cache_key": "k"},
    {"service_tier": "auto"},
    {"user": "me", "safety_identifier": "me"},
]


@pytest.mark.parametrize("more", ACCEPTED, ids=lambda more: "+".join(more))
def test_options_that_change_nothing_are_accepted(client: OpenAI, more: dict[str, Any]) -> None:
    answer = client.responses.create(model=MODEL.model_id, input="Which hue?", **more)
    assert answer.status == "completed"
    assert answer.model_extra is not None
    assert set(answer.model_extra["vlibrary"]["ignored"]) <= {*more, "text.verbosity"}


def test_hints_that_are_not_followed_are_listed(client: OpenAI) -> None:
    answer = client.responses.create(
        model=MODEL.model_id, input="Hue?", store=True, include=["reasoning.encrypted_content"], prompt_cache_key="k"
    )
    assert answer.model_extra is not None
    assert set(answer.model_extra["vlibrary"]["ignored"]) == {"store", "include", "prompt_cache_key"}


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a stored response": ({"previous_response_id": "resp_1"}, "previous_response_id", "stores no responses"),
    "a stored conversation": ({"conversation": "conv_1"}, "conversation", "stores no responses"),
    "tools": ({"tools": [{"type": "function", "name": "f"}]}, "tools", "tools are not supported"),
    "a forced tool": ({"tool_choice": "required"}, "tool_choice", "'auto' or 'none'"),
    "background work": ({"background": True}, "background", "not supported"),
    "an unknown format": ({"text": {"format": {"type": "xml"}}}, "text.format.type", "'text'"),
    "a format without its schema": (
        {"text": {"format": {"type": "json_schema", "name": "a"}}},
        "text.format",
        "the type json_schema requires schema",
    ),
    "too many logprobs": ({"top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
    "no input": ({"input": []}, "input", "at least 1"),
    "too hot": ({"temperature": 3}, "temperature", "less than or equal to 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_service_does_not_do_is_refused_by_name(client: OpenAI, case: str) -> None:
    more, param, words = REFUSED[case]
    body = {"model": MODEL.model_id, "input": "Which hue?"} | more
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        client.responses.create(**body)
    assert caught.value.param == param


def test_an_error_in_the_middle_of_a_stream_raises_in_the_client() -> None:
    worker = ScriptedWorker(["lo", "rp"], WorkerLost("The worker exited.", "Retry the request."))
    seen: list[str] = []
    with client_of(memory_library(worker=worker)) as client:
        stream = client.responses.create(model=MODEL.model_id, input="Hue?", stream=True)
        with pytest.raises(openai.APIError, match="Retry the request") as caught:
            seen.extend(event.delta for event in stream if isinstance(event, ResponseTextDeltaEvent))
    assert seen == ["lo", "rp"]
    assert caught.value.code == "worker_lost"


def test_the_error_event_has_the_documented_fields() -> None:
    worker = ScriptedWorker(["lo"], WorkerLost("The worker exited.", "Retry the request."))
    with live(create_app(memory_library(worker=worker))) as url:
        text = httpx.post(f"{url}/v1/responses", json={"input": "Hue?", "stream": True}).text
    name, data = text.strip().split("\n\n")[-1].split("\n")
    event = json.loads(data.removeprefix("data: "))
    assert (name, event["type"], event["sequence_number"]) == ("event: error", "error", 5)
    assert (event["code"], event["message"]) == ("worker_lost", "The worker exited. Retry the request.")


def test_an_error_before_the_stream_has_its_status() -> None:
    worker = ScriptedWorker([], Overloaded("It is full.", "Retry later."))
    with client_of(memory_library(worker=worker)) as client, pytest.raises(openai.RateLimitError):
        client.responses.create(model=MODEL.model_id, input="Hue?", stream=True)
