"""The OpenAI-compatible endpoint, called by the official OpenAI client over a real connection."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.library import memory_library
from tests.support.memory.worker import MODEL
from tests.support.openai_client import client_of
from tests.support.samples import png
from tests.support.scripted_worker import ScriptedWorker, Then
from vlibrary.api.http.deps import Limits
from vlibrary.domain.errors import OutOfMemory, Overloaded, TimedOut, WorkerLost
from vlibrary.domain.wire import Decoding, Demonstration, GenerateCall, Prompt
from vlibrary.library.library import Library

TIMEOUT_S = 5.0
HUE: list[Any] = [{"role": "user", "content": "Which hue?"}]
RED, BLUE = png((200, 0, 0)), png((0, 0, 200))


def image(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}}


def worker_call(messages: Sequence[Any], **more: Any) -> GenerateCall:
    """Return the call that the worker receives for this request."""
    worker = ScriptedWorker(["a"])
    with client_of(memory_library(worker=worker), Limits(timeout_s=7)) as client:
        client.chat.completions.create(model=MODEL.model_id, messages=messages, **more)
    (call,) = worker.calls
    return call


def test_a_completion_names_the_applied_vectors(client: OpenAI, vector_id: str) -> None:
    answer = client.chat.completions.create(model=MODEL.model_id, messages=HUE)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model, answer.system_fingerprint) == (
        "chat.completion",
        MODEL.model_id,
        MODEL.fingerprint,
    )
    (choice,) = answer.choices
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert choice.message.content == f"Which hue? + 1·{vector_id}"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert answer.model_extra is not None
    extra = answer.model_extra["vlibrary"]
    assert (extra["applied"][0]["id"], extra["reason"]) == (vector_id, None)
    assert 0 < extra["timings"]["retrieval_s"] <= extra["timings"]["total_s"]


def test_a_stream_returns_the_same_answer_in_chunks(client: OpenAI, vector_id: str) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL.model_id,
            messages=HUE,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1
    *parts, usage = chunks
    deltas = [chunk.choices[0].delta for chunk in parts]
    assert (deltas[0].role, [delta.role for delta in deltas[1:]]) == ("assistant", [None] * (len(deltas) - 1))
    assert "".join(delta.content or "" for delta in deltas) == f"Which hue? + 1·{vector_id}"
    assert [chunk.choices[0].finish_reason for chunk in parts] == [None] * (len(parts) - 1) + ["stop"]
    assert [chunk.usage for chunk in parts] == [None] * len(parts)
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 4
    assert parts[-1].model_extra is not None
    assert parts[-1].model_extra["vlibrary"]["applied"][0]["id"] == vector_id


def test_a_stream_without_options_omits_usage(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL.model_id, messages=HUE, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_the_request_selects_the_steering(client: OpenAI, vector_id: str) -> None:
    def text(vlibrary: dict[str, Any]) -> tuple[str | None, str | None]:
        answer = client.chat.completions.create(
            model=MODEL.model_id,
            messages=HUE,
            extra_body={"vlibrary": vlibrary},
        )
        assert answer.model_extra is not None
        reason = answer.model_extra["vlibrary"]["reason"]
        return answer.choices[0].message.content, reason and reason["code"]

    assert text({"steering": "off"}) == ("Which hue?", "off")
    assert text({"strength": 0.5}) == (f"Which hue? + 0.5·{vector_id}", None)
    chosen = {"steering": [{"id": vector_id, "strength": -2}]}
    assert text(chosen) == (f"Which hue? + -2·{vector_id}", None)


def test_retrieval_uses_the_last_question_and_ignores_the_system_prompt(client: OpenAI, vector_id: str) -> None:
    messages: list[Any] = [{"role": "system", "content": "You are a terse assistant. " * 20}, *HUE]
    answer = client.chat.completions.create(model=MODEL.model_id, messages=messages)
    assert answer.model_extra is not None
    assert answer.model_extra["vlibrary"]["applied"][0]["id"] == vector_id


def test_earlier_turns_become_demonstrations() -> None:
    call = worker_call(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "In code words."}]},
            {"role": "user", "content": [image(RED), {"type": "text", "text": "Which hue?"}]},
            {"role": "assistant", "content": "lorp"},
            {"role": "user", "content": "And here?"},
            {"role": "user", "content": [{"type": "text", "text": "Look."}, image(BLUE), image(RED)]},
        ]
    )
    shown = Demonstration("Be brief.\n\nIn code words.\n\nWhich hue?", (RED,), "lorp")
    assert call.prompt == Prompt("And here?\nLook.", (BLUE, RED), (shown,))


def test_an_assistant_message_from_the_client_can_be_sent_back(client: OpenAI) -> None:
    first = client.chat.completions.create(model=MODEL.model_id, messages=HUE).choices[0].message
    messages: list[Any] = [*HUE, first.model_dump(), *HUE]
    assert client.chat.completions.create(model=MODEL.model_id, messages=messages).choices[0].message.content


def test_the_options_reach_the_worker() -> None:
    call = worker_call(
        HUE,
        max_tokens=9,
        temperature=0.5,
        top_p=0.25,
        stop=["a", "b"],
        seed=3,
        n=1,
        user="me",
        metadata={"a": "b"},
        store=False,
        logprobs=False,
        frequency_penalty=0,
        response_format={"type": "text"},
        extra_body={"vlibrary": {"timeout_s": 2}},
    )
    assert call.decoding == Decoding(9, 0.5, 0.25, 3, ("a", "b"))
    assert call.model_id == MODEL.model_id
    assert call.timeout_s == pytest.approx(2, abs=0.5)


def test_defaults_match_openai_and_the_seed_is_random() -> None:
    first, second = worker_call(HUE, max_completion_tokens=4), worker_call(HUE, stop="x")
    assert (first.decoding.max_new_tokens, second.decoding.max_new_tokens) == (4, 256)
    assert (first.decoding.temperature, first.decoding.top_p, second.decoding.stop) == (1.0, 1.0, ("x",))
    assert first.decoding.seed != second.decoding.seed
    assert first.timeout_s == pytest.approx(7, abs=0.5)


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "too many answers": ({"n": 129}, "n"),
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    "most likely tokens without logprobs": ({"top_logprobs": 2}, "top_logprobs"),
    "too many most likely tokens": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "a format of our own": ({"response_format": {"type": "yaml"}}, "response_format.type"),
    "a JSON format without a schema": ({"response_format": {"type": "json_schema"}}, "response_format"),
    "JSON without an end": (
        {"response_format": {"type": "json_object"}, "extra_body": {"ignore_eos": True}},
        "ignore_eos",
    ),
    "audio": ({"modalities": ["text", "audio"]}, "modalities"),
    "penalties": ({"presence_penalty": 2.5}, "presence_penalty"),
    "unknown field": ({"extra_body": {"top_q": 5}}, "top_q"),
    "unknown steering": ({"extra_body": {"vlibrary": {"steering": "on"}}}, "vlibrary.steering"),
    "too hot": ({"temperature": 2.1}, "temperature"),
    "too many stops": ({"stop": ["a"] * 65}, "stop"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported_options_are_rejected_by_name(client: OpenAI, case: str) -> None:
    more, field = UNSUPPORTED[case]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL.model_id, messages=HUE, **more)
    assert str(caught.value.param).startswith(field)
    assert caught.value.type == "invalid_request_error"


BAD_MESSAGES: dict[str, tuple[list[Any], str]] = {
    "none": ([], "at least 1"),
    "an empty question": ([{"role": "user", "content": " "}], "empty"),
    "a tool's answer": ([*HUE, {"role": "tool", "content": "1", "tool_call_id": "x"}, *HUE], "role"),
    "a tool call": ([*HUE, {"role": "assistant", "content": "", "tool_calls": [{"id": "x"}]}, *HUE], "not supported"),
    "an image to fetch": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}]}],
        "data URL",
    ),
    "an invalid image": ([{"role": "user", "content": [image(b"hello")]}], "image"),
    "images over several turns": (
        [
            {"role": "user", "content": [image(RED)] * 33},
            {"role": "assistant", "content": "lorp"},
            {"role": "user", "content": [image(RED)] * 32},
        ],
        "65 images",
    ),
    "audio": ([{"role": "user", "content": [{"audio is not supported": "input_audio", "input_audio": {}}]}], "type"),
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_invalid_messages_are_rejected_with_a_helpful_message(client: OpenAI, case: str) -> None:
    messages, words = BAD_MESSAGES[case]
    with pytest.raises(openai.BadRequestError, match=words):
        client.chat.completions.create(model=MODEL.model_id, messages=messages)


def _create(client: OpenAI, *, model: str = MODEL.model_id) -> Any:
    return client.chat.completions.create(model=model, messages=HUE)


def test_an_unknown_path_returns_an_openai_error(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.moderations.create(input="y")
    assert missing.value.code == "not_found"


def test_an_oversized_body_returns_an_openai_error(library: Library) -> None:
    with client_of(library, Limits(request_bytes=20)) as client, pytest.raises(openai.APIStatusError) as caught:
        _create(client)
    assert (caught.value.status_code, caught.value.code) == (413, "too_large")


FAILURES: dict[Callable[[str, str], Exception], tuple[type[openai.APIStatusError], int, bool]] = {
    Overloaded: (openai.RateLimitError, 429, True),
    OutOfMemory: (openai.InternalServerError, 503, True),
    TimedOut: (openai.InternalServerError, 504, False),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", FAILURES)
def test_errors_raise_the_exceptions_of_the_client(kind: Callable[[str, str], Exception], stream: bool) -> None:
    raised, status, retry_after = FAILURES[kind]
    worker = ScriptedWorker([], kind("It went wrong.", "Fix it."))
    with (
        client_of(memory_library(worker=worker)) as client,
        pytest.raises(raised, match=r"wrong\. Fix it\.") as caught,
    ):
        client.chat.completions.create(model=MODEL.model_id, messages=HUE, stream=stream)
    assert caught.value.status_code == status
    assert ("retry-after-ms" in caught.value.response.headers) == retry_after


@pytest.mark.parametrize("then", [WorkerLost("The worker exited.", "Retry the request."), Then.VANISH])
def test_an_error_in_the_middle_of_a_stream_raises_in_the_client(then: Exception | Then) -> None:
    worker = ScriptedWorker(["lo", "rp"], then)
    seen: list[str | None] = []
    with client_of(memory_library(worker=worker)) as client:
        stream = client.chat.completions.create(model=MODEL.model_id, messages=HUE, stream=True)
        with pytest.raises(openai.APIError, match="Retry the request") as caught:
            seen.extend(chunk.choices[0].delta.content for chunk in stream)
    assert seen == ["", "lo", "rp"]
    assert caught.value.code == "worker_lost"


def test_a_disconnect_in_the_middle_of_a_stream_cancels_it() -> None:
    worker = ScriptedWorker(["lo", "rp"], Then.WAIT)
    with client_of(memory_library(worker=worker)) as client:
        with client.chat.completions.create(model=MODEL.model_id, messages=HUE, stream=True) as stream:
            assert [next(stream).choices[0].delta.content for _ in range(3)] == ["", "lo", "rp"]
            assert not worker.closed.is_set()
        assert worker.closed.wait(TIMEOUT_S)


def test_concurrent_streams_do_not_mix(client: OpenAI, vector_id: str) -> None:
    async def stream_one(session: AsyncOpenAI, number: int) -> str:
        stream = await session.chat.completions.create(
            model=MODEL.model_id,
            messages=[{"role": "user", "content": f"Say {number} " * 20}],
            stream=True,
            extra_body={"vlibrary": {"steering": [{"id": vector_id, "strength": number}]}},
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_at_once() -> list[str]:
        async with AsyncOpenAI(base_url=client.base_url, api_key="any", max_retries=0) as session:
            return await asyncio.gather(*(stream_one(session, number) for number in range(32)))

    expected = [f"{f'Say {number} ' * 20} + {number}·{vector_id}" for number in range(32)]
    assert asyncio.run(all_at_once()) == expected
