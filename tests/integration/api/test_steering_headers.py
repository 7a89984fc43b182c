"""The headers that report the steering, on every endpoint that answers, whole and streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.library import memory_library, register
from tests.support.live_server import live
from tests.support.memory.worker import MODEL
from vlibrary.api.app import create_app

QUESTION = "Which hue?"
LIBRARY = memory_library()
COLOUR = register(LIBRARY, "colour", QUESTION)
BODIES: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": QUESTION},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": QUESTION}]},
    "/v1/completions": {"prompt": QUESTION},
    "/v1/responses": {"input": QUESTION},
}
ITEM = r'"colour:1";id="{}";sha256="{}"{};strength="{}"'


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with live(create_app(LIBRARY)) as address:
        yield address


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_the_headers_name_the_vectors_or_the_reason(url: str, path: str, stream: bool) -> None:
    matched = httpx.post(url + path, json=BODIES[path] | {"stream": stream})
    pattern = ITEM.format(COLOUR.id, COLOUR.sha256, r';score="(1\.0000|0\.9\d+)"', "1")
    assert re.fullmatch(pattern, matched.headers["x-vlibrary-vectors"])
    assert "x-vlibrary-reason" not in matched.headers

    named = httpx.post(url + path, json=BODIES[path] | {"stream": stream, "model": "colour:1"})
    assert named.headers["x-vlibrary-vectors"] == ITEM.format(COLOUR.id, COLOUR.sha256, "", "1")

    off = httpx.post(url + path, json=BODIES[path] | {"stream": stream, "model": f"{MODEL.model_id}:off"})
    assert off.headers["x-vlibrary-reason"] == "off"
    assert "x-vlibrary-vectors" not in off.headers


def test_several_prompts_report_each_vector_and_reason_once(url: str) -> None:
    answer = httpx.post(f"{url}/v1/completions", json={"prompt": [QUESTION, QUESTION, "zzz qqq 123"]})
    assert answer.headers["x-vlibrary-vectors"].count("sha256") == 1
    assert answer.headers["x-vlibrary-reason"] == "below_threshold"


@pytest.mark.parametrize("path", BODIES)
def test_an_error_has_no_such_headers(url: str, path: str) -> None:
    answer = httpx.post(url + path, json=BODIES[path] | {"model": "none"})
    assert answer.status_code == 404
    assert not [name for name in answer.headers if name.startswith("x-vlibrary")]


def test_health_and_version_answer_as_vllm_does(url: str) -> None:
    assert (httpx.get(f"{url}/health").status_code, httpx.get(f"{url}/health").content) == (200, b"")
    assert re.fullmatch(r"\d+\.\d+.*", httpx.get(f"{url}/version").json()["version"])
