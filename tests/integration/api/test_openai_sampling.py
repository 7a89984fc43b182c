"""Decoding options and log-probabilities of chat completions, through OpenAI's client."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from pydantic import BaseModel

from tests.integration.api.test_openai import HUE, worker_call
from tests.support.library import memory_library
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import MODEL, MemoryWorker
from tests.support.openai_client import client_of
from vlibrary.domain.wire import Decoding, GenerateCall, Generation, ScoredToken, TextPiece


def test_openais_and_vllms_options_reach_the_worker() -> None:
    call = worker_call(
        HUE,
        max_tokens=9,
        temperature=0,
        top_p=0,
        seed=-(2**63),
        stop="x" * 1024,
        presence_penalty=0.5,
        frequency_penalty=-2,
        logit_bias={"7": -100},
        logprobs=True,
        top_logprobs=20,
        extra_body={
            "top_k": -1,
            "min_p": 0.25,
            "repetition_penalty": 1.5,
            "min_tokens": 3,
            "ignore_eos": True,
            "stop_token_ids": [4],
        },
    )
    assert call.decoding == Decoding(
        max_new_tokens=9,
        temperature=0.0,
        top_p=0.0,
        seed=-(2**63),
        stop=("x" * 1024,),
        top_k=0,
        min_p=0.25,
        repetition_penalty=1.5,
        presence_penalty=0.5,
        frequency_penalty=-2.0,
        logit_bias=((7, -100.0),),
        stop_token_ids=(4,),
        ignore_eos=True,
        min_new_tokens=3,
        logprobs=20,
    )


def test_null_and_neutral_values_are_the_defaults() -> None:
    names = ("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "logit_bias")
    nulls: dict[str, Any] = dict.fromkeys((*names, "seed", "stop", "temperature", "top_p", "logprobs", "top_logprobs"))
    neutral = {"top_k": -1, "min_p": 0, "repetition_penalty": 1, "min_tokens": 0, "ignore_eos": False, "logit_bias": {}}
    for body in (nulls, neutral, {"logprobs": False, "top_logprobs": 0}):
        decoding = worker_call(HUE, extra_body=body).decoding
        assert decoding == Decoding(max_new_tokens=256, temperature=1.0, seed=decoding.seed)


def test_logprobs_are_returned_whole_and_streamed() -> None:
    asked: dict[str, Any] = {"model": MODEL.model_id, "messages": HUE, "logprobs": True, "top_logprobs": 2}
    with client_of(memory_library()) as client:
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True))
    found = whole.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert [one.token for one in found.content] == ["Which", " hue?"]
    assert [one.logprob for one in found.content] == [-0.5, -0.5]
    assert [one.bytes for one in found.content] == [list(b"Which"), list(b" hue?")]
    assert [(one.token, one.bytes) for one in found.content[0].top_logprobs] == [("\ufffd", [0xF0, 0x9F])] * 2
    streamed = [one for chunk in chunks if (part := chunk.choices[0].logprobs) for one in part.content or ()]
    assert streamed == found.content


class StoppedWorker(MemoryWorker):
    """Answers with a character of two tokens, and then two tokens of a stop text, which have no text."""

    SCORED = tuple(ScoredToken(at, data, -1.0) for at, data in enumerate((b"\xc3", b"\xa9", b"st", b"op")))

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        scored = self.SCORED if call.decoding.logprobs is not None else ()
        yield TextPiece("é", 2, scored[:2])
        yield Generation("é", 1, 4, "stop", {"total_s": 0.0}, scored or None)


def test_tokens_without_a_text_come_before_the_end_of_a_stream() -> None:
    asked: dict[str, Any] = {"model": MODEL.model_id, "messages": HUE, "stream": True}
    with client_of(memory_library(worker=StoppedWorker(MemoryArtifacts()))) as client:
        chunks = list(client.chat.completions.create(**asked, logprobs=True))
        plain = list(client.chat.completions.create(**asked))
    scored = [one for chunk in chunks if (part := chunk.choices[0].logprobs) for one in part.content or ()]
    assert [bytes(one.bytes or ()) for one in scored] == [b"\xc3", b"\xa9", b"st", b"op"]
    assert [one.token for one in scored] == ["\ufffd", "\ufffd", "st", "op"]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.choices[0].logprobs is None for chunk in plain)
    assert len(plain) == len(chunks) - 1


SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"$ref": "#/properties/b"}}}


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}, SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": None, "description": "d"}}, {}),
    ],
)
def test_the_response_format_reaches_the_worker_as_a_schema(response_format: Any, schema: Any) -> None:
    found = worker_call(HUE, response_format=response_format).decoding.json_schema
    assert (found and json.loads(found)) == schema
    if found:
        assert found == json.dumps(schema)  # with the properties in their order


class Colour(BaseModel):
    """What a client parses the answer into."""

    colour: str


class JsonWorker(MemoryWorker):
    """Answers with a JSON document if one is requested."""

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        text = '{"colour": "red"}' if call.decoding.json_schema else "red"
        yield TextPiece(text, 1)
        yield Generation(text, 1, 1, "stop", {"total_s": 0.0})


def test_openais_client_parses_an_answer_into_a_class() -> None:
    with client_of(memory_library(worker=JsonWorker(MemoryArtifacts()))) as client:
        answer = client.chat.completions.parse(model=MODEL.model_id, messages=HUE, response_format=Colour)
    assert answer.choices[0].message.parsed == Colour(colour="red")
