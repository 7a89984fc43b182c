"""Plain HTTP: curl, httpx, aiohttp and requests, as people write them by hand."""

from __future__ import annotations

import asyncio
import json
import subprocess

import aiohttp
import httpx
import requests
from checks import (
    APPLIED,
    DATA_URL,
    EMBEDDER,
    EXPECTED,
    MODEL,
    NAME,
    QUESTION,
    UNKNOWN,
    UNSTEERED,
    URL,
    V1,
    VECTOR,
    check,
    expect,
    run,
)
from checks import message as ask

CHAT = f"{V1}/chat/completions"


def body(model: str = MODEL, **more):
    return {"model": model, "messages": ask(), "temperature": 0, **more}


def text_of(answer) -> str:
    return answer["choices"][0]["message"]["content"]


def curl(*options: str, data=None) -> str:
    given = [] if data is None else ["--json", "@-"]
    done = subprocess.run(
        ["curl", "-sS", *given, *options], input=json.dumps(data), capture_output=True, text=True, check=True
    )
    return done.stdout


@check("text")
def text() -> None:
    answer = json.loads(curl(CHAT, data={"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}))
    assert answer["usage"]["completion_tokens"] > 0


@check("image")
def image() -> None:
    expect(text_of(json.loads(curl(CHAT, data=body()))))
    # Some programs send the URL as a plain string.
    parts = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": DATA_URL}]
    expect(text_of(requests.post(CHAT, json=body(messages=[{"role": "user", "content": parts}])).json()))


@check("stream")
def stream() -> None:
    lines = [line[6:] for line in curl("-N", CHAT, data=body(stream=True)).splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    expect("".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines))


@check("vector")
def vector() -> None:
    assert text_of(httpx.post(CHAT, json=body(UNSTEERED)).json()) != EXPECTED
    expect(text_of(httpx.post(CHAT, json=body(VECTOR)).json()))
    assert httpx.get(f"{V1}/models/{VECTOR}").json()["id"] == VECTOR


@check("audit")
def audit() -> None:
    answer = httpx.post(CHAT, json=body(VECTOR))
    assert answer.json()["vlibrary"]["applied"][0]["name"] == NAME


@check("stream audit")
def stream_audit() -> None:
    with requests.post(CHAT, json=body(VECTOR, stream=True), stream=True) as answer:
        lines = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith(b"data: {")]
    assert [line["vlibrary"] for line in lines if "vlibrary" in line][-1]["applied"][0]["name"] == NAME


@check("headers")
def headers() -> None:
    async def of_a_stream() -> str:
        async with aiohttp.ClientSession() as session, session.post(CHAT, json=body(VECTOR, stream=True)) as answer:
            return answer.headers[APPLIED]

    whole = httpx.post(CHAT, json=body(VECTOR)).headers
    assert whole["x-request-id"]
    assert NAME in whole[APPLIED]
    assert NAME in asyncio.run(of_a_stream())


@check("errors")
def errors() -> None:
    answer = requests.post(CHAT, json=body(UNKNOWN))
    assert answer.status_code == 404
    assert UNKNOWN in answer.json()["error"]["message"]
    assert "POST" in requests.put(CHAT, json={}).headers["allow"]
    assert httpx.head(f"{URL}/health").status_code == 200


@check("completions")
def completions() -> None:
    assert requests.post(f"{V1}/completions", json={"model": MODEL, "prompt": QUESTION}).json()["choices"]


@check("embeddings")
def embeddings() -> None:
    given = httpx.post(f"{V1}/embeddings", json={"model": EMBEDDER, "input": "Which hue?", "encoding_format": "float"})
    assert len(given.json()["data"][0]["embedding"]) > 0


run()
