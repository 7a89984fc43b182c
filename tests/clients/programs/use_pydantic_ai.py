"""Pydantic AI: one of its settings keeps what a service adds to OpenAI's answer."""

from __future__ import annotations

import asyncio
from typing import Literal

from checks import EXPECTED, MODEL, NAME, PICTURE, QUESTION, UNKNOWN, UNSTEERED, V1, VECTOR, check, expect, raised, run
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

ASK = [QUESTION, BinaryContent(PICTURE.read_bytes(), media_type="image/png")]


class Word(BaseModel):
    word: Literal["brox", "quave"]


def agent(model: str = MODEL, kind: type = OpenAIChatModel, **options) -> Agent:
    settings = {"temperature": 0, "openai_include_unmapped_response_data": True}
    return Agent(kind(model, provider=OpenAIProvider(base_url=V1, api_key="none")), model_settings=settings, **options)


@check("text")
def text() -> None:
    assert agent().run_sync(QUESTION).usage.output_tokens > 0


@check("image")
def image() -> None:
    expect(agent().run_sync(ASK).output)


async def streamed(model: str) -> tuple[str, dict]:
    async with agent(model).run_stream(ASK) as answer:
        text = "".join([piece async for piece in answer.stream_text(delta=True)])
        return text, answer.response.provider_details


@check("stream")
def stream() -> None:
    expect(asyncio.run(streamed(MODEL))[0])


@check("vector")
def vector() -> None:
    assert agent(UNSTEERED).run_sync(ASK).output != EXPECTED
    expect(agent(VECTOR).run_sync(ASK).output)


@check("audit")
def audit() -> None:
    details = agent(VECTOR).run_sync(ASK).response.provider_details
    assert details["unmapped"]["response"]["vlibrary"]["applied"][0]["name"] == NAME


@check("stream audit")
def stream_audit() -> None:
    _, details = asyncio.run(streamed(VECTOR))
    reports = [
        chunk["response"]["vlibrary"] for chunk in details["unmapped"]["chunks"] if "vlibrary" in chunk["response"]
    ]
    assert reports[-1]["applied"][0]["name"] == NAME


@check("errors")
def errors() -> None:
    error = raised(ModelHTTPError, lambda: agent(UNKNOWN).run_sync(ASK))
    assert error.status_code == 404
    assert UNKNOWN in str(error)


@check("json")
def structured() -> None:
    from pydantic_ai import NativeOutput

    assert agent(VECTOR, output_type=NativeOutput(Word)).run_sync(ASK).output.word in ("brox", "quave")


@check("tools")
def tools() -> None:
    assert agent(VECTOR, output_type=Word).run_sync(ASK).output.word in ("brox", "quave")


@check("responses")
def responses() -> None:
    expect(agent(VECTOR, OpenAIResponsesModel).run_sync(ASK).output)


run()
