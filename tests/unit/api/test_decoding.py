"""Decoding options and log-probabilities of /generate."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.support.library import memory_library
from tests.support.scripted_worker import ScriptedWorker
from tests.unit.api.test_stream import api_with, events_of, generate
from vlibrary.api.app import create_app
from vlibrary.domain.wire import Decoding, ScoredToken
from vlibrary.schemas.generate import DecodingIn
from vlibrary.schemas.logprobs import LogprobOut


def test_every_option_reaches_the_worker() -> None:
    worker = ScriptedWorker(["a"])
    sent: dict[str, Any] = {
        "max_new_tokens": 9,
        "min_new_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "min_p": 0.125,
        "seed": -3,
        "stop": ["x" * 1024, "."],
        "stop_token_ids": [4, 5],
        "ignore_eos": True,
        "repetition_penalty": 1.5,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"7": -100, "0": 2.5},
        "logprobs": 5,
        "prompt_logprobs": 0,
    }
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    with api_with(worker) as api:
        assert generate(api, decoding=sent).status_code == 200
        assert generate(api, decoding={"json_schema": schema}).status_code == 200
    wanted = sent | {"stop": ("x" * 1024, "."), "stop_token_ids": (4, 5), "logit_bias": ((7, -100.0), (0, 2.5))}
    assert worker.calls[0].decoding == Decoding(**wanted)
    assert worker.calls[1].decoding == Decoding(json_schema=json.dumps(schema))


@pytest.mark.parametrize("more", [{"ignore_eos": True}, {"min_new_tokens": 1}, {"stop_token_ids": [1]}])
def test_a_json_schema_alone_determines_the_end(more: dict[str, Any]) -> None:
    with api_with(ScriptedWorker(["a"])) as api:
        answer = generate(api, decoding={"json_schema": {"type": "object"}} | more)
    assert answer.status_code == 422
    assert "a JSON format determines the end" in answer.text


def test_a_huge_json_schema_is_refused() -> None:
    with api_with(ScriptedWorker(["a"])) as api:
        answer = generate(api, decoding={"json_schema": {"const": "x" * 70_000}})
    assert answer.status_code == 422
    assert "more than 65536 characters" in answer.text


def test_no_option_is_the_default_of_the_engine() -> None:
    assert DecodingIn().decoding() == Decoding()


@pytest.mark.parametrize("unlimited", [-1, 0])
def test_top_k_of_zero_or_minus_one_is_no_limit(unlimited: int) -> None:
    assert DecodingIn(top_k=unlimited).decoding() == Decoding()


def test_logprobs_are_sent_whole_and_streamed() -> None:
    asked = {"logprobs": 2, "prompt_logprobs": 1}
    with TestClient(create_app(memory_library())) as api:
        whole = generate(api, decoding=asked).json()
        events = events_of(generate(api, decoding=asked, stream=True).text)
        plain = generate(api).json()
        plain_events = events_of(generate(api, stream=True).text)
    assert [one["token"] for one in whole["logprobs"]] == ["Which", " hue?"]
    assert whole["logprobs"][0]["bytes"] == list(b"Which")
    assert whole["logprobs"][0]["top_logprobs"][1] == {
        "id": 2,
        "token": "\ufffd",
        "bytes": [0xF0, 0x9F],
        "logprob": -2.0,
    }
    assert len(whole["prompt_logprobs"]) == whole["usage"]["prompt_tokens"]
    assert [one for name, data in events if name == "token" for one in data["logprobs"]] == whole["logprobs"]
    assert events[-1][1] | {"timings": whole["timings"]} == whole
    assert (plain["logprobs"], plain["prompt_logprobs"]) == (None, None)
    assert all("logprobs" not in data for name, data in plain_events if name == "token")


@given(st.floats(max_value=0, allow_nan=False))
def test_every_logprob_is_a_json_number(logprob: float) -> None:
    one = ScoredToken(1, b"a", logprob)
    sent = LogprobOut.of(ScoredToken(1, b"a", logprob, (one,)))
    assert sent.logprob == sent.top_logprobs[0].logprob == max(logprob, -9999.0)


def test_the_first_token_of_a_prompt_has_no_logprob() -> None:
    assert LogprobOut.of(ScoredToken(1, b"a", None)).logprob is None
