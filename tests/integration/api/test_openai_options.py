"""Options of chat completions: honoured, accepted because they change nothing, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.support.library import memory_library
from tests.support.live_server import live
from tests.support.memory.worker import CONTEXT_LENGTH, MODEL
from tests.support.scripted_worker import ScriptedWorker
from vlibrary.api.app import create_app
from vlibrary.domain.wire import Decoding

HUE: list[Any] = [{"role": "user", "content": "Which hue?"}]
WORKER = ScriptedWorker(["lo", "rp"])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with live(create_app(memory_library(worker=WORKER))) as address:
        yield address


def post(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json={"messages": HUE, "seed": 1} | body)


NEUTRAL: dict[str, Any] = {
    "top_k": [-1, 0],
    "min_p": [0, 0.0],
    "repetition_penalty": [1, 1.0],
    "presence_penalty": [0],
    "frequency_penalty": [0.0],
    "logit_bias": [{}],
    "n": [1, 1.0],
    "ignore_eos": [False],
    "tools": [[]],
    "functions": [[]],
    "tool_choice": ["none", "auto"],
    "function_call": ["none"],
    "modalities": [["text"]],
    "response_format": [{"type": "text"}],
    "logprobs": [False],
    "stop": [[]],
    "stream": [False],
    "stream_options": [{"include_usage": True}, {}],
    "best_of": [1],
    "use_beam_search": [False],
    "length_penalty": [1.0],
    "skip_special_tokens": [True],
    "add_generation_prompt": [True],
    "continue_final_message": [False],
    "echo": [False],
    "chat_template_kwargs": [{}],
    "bad_words": [[]],
    "store": [False],
    "service_tier": ["auto", "default"],
    "vlibrary": [None, {}],
}
HINTS: dict[str, Any] = {
    "user": "ann",
    "metadata": {"a": "b"},
    "store": True,
    "service_tier": "priority",
    "safety_identifier": "x",
    "prompt_cache_key": "x",
    "prompt_cache_retention": "24h",
    "verbosity": "low",
    "reasoning_effort": "minimal",
    "prediction": {"type": "content", "content": "lorp"},
    "parallel_tool_calls": True,
    "cache_salt": "x",
    "request_id": "x",
}


@pytest.mark.parametrize(("field", "value"), [(field, one) for field, values in NEUTRAL.items() for one in values])
def test_a_value_that_changes_nothing_is_accepted(url: str, field: str, value: Any) -> None:
    answer = post(url, **{field: value})
    assert (answer.status_code, answer.json().get("vlibrary", {}).get("ignored")) == (200, []), answer.text
    assert WORKER.calls[-1].decoding == Decoding(256, 1.0, seed=1)


@pytest.mark.parametrize("field", [*NEUTRAL, *HINTS])
def test_null_is_accepted_in_every_field(url: str, field: str) -> None:
    assert post(url, **{field: None}).status_code == 200


@pytest.mark.parametrize("field", HINTS)
def test_a_hint_is_accepted_and_listed(url: str, field: str) -> None:
    answer = post(url, **{field: HINTS[field]})
    assert (answer.status_code, answer.json()["vlibrary"]["ignored"]) == (200, [field])


def test_hints_in_messages_are_listed_once_without_indexes(url: str) -> None:
    text = {"type": "text", "text": "Hue?", "cache_control": {"type": "ephemeral"}}
    answer = post(url, messages=[{"role": "user", "content": [text, text], "name": "ann"}, *HUE])
    assert answer.json()["vlibrary"]["ignored"] == ["messages.name", "messages.content.cache_control"]


def test_every_option_that_the_engine_has_reaches_it(url: str) -> None:
    answer = post(
        url,
        max_tokens=9,
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0,
        top_k=3,
        min_p=0.1,
        seed=-(2**63),
        stop="x" * 200,
        stop_token_ids=[4],
        min_tokens=2,
        ignore_eos=True,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.5,
        logit_bias={"7": -100},
        logprobs=True,
        top_logprobs=2,
    )
    assert answer.status_code == 200, answer.text
    assert WORKER.calls[-1].decoding == Decoding(
        max_new_tokens=7,
        temperature=0.5,
        top_p=0.0,
        seed=-(2**63),
        stop=("x" * 200,),
        top_k=3,
        min_p=0.1,
        repetition_penalty=1.5,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias=((7, -100.0),),
        stop_token_ids=(4,),
        ignore_eos=True,
        min_new_tokens=2,
        logprobs=2,
    )


def test_a_maximum_length_beyond_any_context_is_accepted(url: str) -> None:
    assert post(url, max_tokens=10**6).status_code == 200


TOOLS = [{"type": "function", "function": {"name": "f"}}]
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "tools": ({"tools": TOOLS}, "tools", "invalid_value"),
    "tools and auto": ({"tools": TOOLS, "tool_choice": "auto"}, "tool_choice", "invalid_value"),
    "a forced tool without tools": ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    "a tool that is not there": (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
        "invalid_value",
    ),
    "two tools with one name": ({"tools": TOOLS * 2, "tool_choice": "required"}, "tools", "invalid_value"),
    "a custom tool": ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type", "invalid_value"),
    "a tool and a JSON format": (
        {"tools": TOOLS, "tool_choice": "required", "response_format": {"type": "json_object"}},
        "response_format",
        "invalid_value",
    ),
    "long schemas": (
        {
            "tools": [
                {"type": "function", "function": {"name": f"f{n}", "parameters": {"description": "x" * 40_000}}}
                for n in range(2)
            ],
            "tool_choice": "required",
        },
        "tools",
        "invalid_value",
    ),
    "audio": ({"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
    "a voice": ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
    "web search": ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
    "beams": ({"use_beam_search": True}, "use_beam_search", "unsupported_value"),
    "a number for a flag": ({"use_beam_search": 0}, "use_beam_search", "unsupported_value"),
    "a flag for a number": ({"best_of": True}, "best_of", "unsupported_value"),
    "a prefilled answer": ({"continue_final_message": True}, "continue_final_message", "unsupported_value"),
    "a typing error": ({"temprature": 0}, "temprature", "unknown_parameter"),
    "a text for a number": ({"temperature": "0"}, "temperature", "invalid_type"),
    "too hot": ({"temperature": 2.5}, "temperature", "invalid_value"),
    "a tool's answer": (
        {"messages": [*HUE, {"role": "tool", "content": "1", "tool_call_id": "x"}]},
        "messages.1.role",
        "invalid_value",
    ),
    "a tool call": (
        {"messages": [*HUE, {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}, *HUE]},
        "messages.1.tool_calls",
        "unsupported_value",
    ),
    "an image to fetch": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "https://x.org/a.png"}]}]},
        "messages.0.content.0.image_url",
        "unsupported_value",
    ),
    "moderation": ({"moderation": {"model": "x"}}, "moderation", "unsupported_parameter"),
    "likely tokens without log-probabilities": ({"top_logprobs": 1}, "top_logprobs", "invalid_value"),
    "a schema without its type": (
        {"response_format": {"type": "text", "json_schema": {"name": "x", "schema": {}}}},
        "response_format.json_schema",
        "invalid_value",
    ),
    "a type without its schema": ({"response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
    "a JSON format with another end": (
        {"response_format": {"type": "json_object"}, "min_tokens": 2},
        "min_tokens",
        "invalid_value",
    ),
    "no messages": ({"messages": None}, "messages", "invalid_type"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_option_that_would_change_the_answer_is_refused_by_name(url: str, case: str) -> None:
    body, param, code = REFUSED[case]
    answer = post(url, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code), answer.text
    assert error["type"] == "invalid_request_error"


def test_a_missing_field_is_named(url: str) -> None:
    error = httpx.post(f"{url}/v1/chat/completions", json={"model": MODEL.model_id}).json()["error"]
    assert (error["param"], error["code"]) == ("messages", "missing_required_parameter")


def test_continuous_usage_counts_tokens_in_every_chunk(url: str) -> None:
    with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        options: Any = {"include_usage": True, "include_obfuscation": False, "continuous_usage_stats": True}
        chunks = list(
            client.chat.completions.create(model=MODEL.model_id, messages=HUE, stream=True, stream_options=options)
        )
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage is not None]
    assert counts == [1, 2, 2]


def test_a_prompt_that_exceeds_the_context_has_openais_error() -> None:
    with live(create_app(memory_library())) as url:
        answer = post(url, messages=[{"role": "user", "content": "hue " * (CONTEXT_LENGTH + 1)}])
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert error["message"].startswith(f"This model's maximum context length is {CONTEXT_LENGTH} tokens. However, ")
