"""OpenAI's own Python client."""

from __future__ import annotations

import asyncio
import json

from checks import (
    APPLIED,
    DATA_URL,
    EMBEDDER,
    EXPECTED,
    LONG,
    MODEL,
    NAME,
    QUESTION,
    UNKNOWN,
    UNSTEERED,
    V1,
    VECTOR,
    check,
    expect,
    raised,
    run,
)
from checks import message as ask
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

client = OpenAI(base_url=V1, api_key="none", max_retries=0)
chat = client.chat.completions


def answer(model: str = MODEL, **options):
    return chat.create(model=model, messages=ask(), temperature=0, **options)


@check("text")
def text() -> None:
    given = chat.create(model=MODEL, messages=[{"role": "user", "content": QUESTION}])
    assert given.usage.completion_tokens > 0


@check("image")
def image() -> None:
    expect(answer().choices[0].message.content)


@check("stream")
def stream() -> None:
    chunks = list(answer(stream=True, stream_options={"include_usage": True}))
    expect("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))
    assert chunks[-1].usage.completion_tokens > 0


@check("vector")
def vector() -> None:
    assert answer(UNSTEERED).choices[0].message.content != EXPECTED
    expect(answer(VECTOR).choices[0].message.content)
    assert VECTOR in [model.id for model in client.models.list()]
    assert client.models.retrieve(VECTOR).id == VECTOR


@check("audit")
def audit() -> None:
    assert answer(VECTOR).model_extra["vlibrary"]["applied"][0]["name"] == NAME


@check("stream audit")
def stream_audit() -> None:
    chunks = answer(VECTOR, stream=True)
    reports = [chunk.model_extra["vlibrary"] for chunk in chunks if "vlibrary" in (chunk.model_extra or {})]
    assert reports[-1]["applied"][0]["name"] == NAME


@check("headers")
def headers() -> None:
    for stream in (False, True):
        raw = chat.with_raw_response.create(model=VECTOR, messages=ask(), temperature=0, stream=stream)
        assert raw.headers["x-request-id"]
        assert NAME in raw.headers[APPLIED]


@check("errors")
def errors() -> None:
    error = raised(NotFoundError, lambda: answer(UNKNOWN))
    assert UNKNOWN in error.message
    assert error.code == "model_not_found", error.code
    error = raised(BadRequestError, lambda: chat.create(model=MODEL, messages=[{"role": "user", "content": LONG}]))
    assert error.code == "context_length_exceeded", error.code
    assert "maximum context length" in error.message


@check("async")
def asynchronous() -> None:
    async def both() -> list[str]:
        async with AsyncOpenAI(base_url=V1, api_key="none", max_retries=0) as other:
            calls = [other.chat.completions.create(model=MODEL, messages=ask(), temperature=0) for _ in range(8)]
            return [each.choices[0].message.content for each in await asyncio.gather(*calls)]

    for each in asyncio.run(both()):
        expect(each)


@check("logprobs")
def logprobs() -> None:
    (first, *_) = answer(VECTOR, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert first.logprob <= 0
    assert len(first.top_logprobs) == 2


@check("n")
def several() -> None:
    answers = chat.create(model=VECTOR, messages=ask(), n=3, temperature=0).choices
    assert [each.index for each in answers] == [0, 1, 2]
    for each in answers:
        expect(each.message.content)


@check("json")
def structured() -> None:
    schema = {"type": "object", "properties": {"word": {"enum": ["brox", "quave"]}}, "required": ["word"]}
    form = {"type": "json_schema", "json_schema": {"name": "word", "schema": schema, "strict": True}}
    assert answer(VECTOR, response_format=form).choices[0].message.content.startswith("{")


@check("tools")
def tools() -> None:
    word = {"type": "object", "properties": {"word": {"enum": ["brox", "quave"]}}, "required": ["word"]}
    offered = [{"type": "function", "function": {"name": name, "parameters": word}} for name in ("say", "sing")]
    named = {"type": "function", "function": {"name": "sing"}}
    for choice, names in (("required", {"say", "sing"}), (named, {"sing"})):
        (call,) = answer(VECTOR, tools=offered, tool_choice=choice).choices[0].message.tool_calls
        assert call.function.name in names
        assert json.loads(call.function.arguments)["word"] in ("brox", "quave")
        with chat.stream(model=VECTOR, messages=ask(), temperature=0, tools=offered, tool_choice=choice) as events:
            (streamed,) = events.get_final_completion().choices[0].message.tool_calls
        assert (streamed.function.name, streamed.function.arguments) == (call.function.name, call.function.arguments)


@check("completions")
def completions() -> None:
    assert client.completions.create(model=MODEL, prompt=QUESTION, max_tokens=4).usage.completion_tokens > 0


@check("responses")
def responses() -> None:
    parts = [{"type": "input_text", "text": QUESTION}, {"type": "input_image", "image_url": DATA_URL, "detail": "auto"}]
    given = client.responses.create(model=VECTOR, input=[{"role": "user", "content": parts}], temperature=0)
    expect(given.output_text)
    with client.responses.stream(model=VECTOR, input=[{"role": "user", "content": parts}], temperature=0) as events:
        expect(events.get_final_response().output_text)


@check("embeddings")
def embeddings() -> None:
    given = client.embeddings.create(model=EMBEDDER, input=["Which hue?", "Name the clan."])
    assert [len(each.embedding) > 0 for each in given.data] == [True, True]


run()
