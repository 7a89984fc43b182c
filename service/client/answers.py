"""Finding vectors and asking for answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from httpx_sse import EventSource

from vlibrary.client.transport import Json, ServiceError, Transport, told
from vlibrary.domain.example import Example
from vlibrary.domain.wire import TextPiece


class Answers(Transport):
    """What asks the models."""

    def retrieve(
        self,
        text: str | None,
        *,
        images: Sequence[bytes] = (),
        k: int = 5,
        among: Mapping[str, Any] | None = None,
        min_seq: int = 0,
    ) -> list[Json]:
        """The best vectors, best first. among: which may be found: name, method, tags, metadata, derived_from."""
        body = {
            "text": text,
            "images": [_base64(image) for image in images],
            "k": k,
            "filter": dict(among or {}),
            "min_seq": min_seq,
        }
        matches: list[Json] = self._json("POST", "/retrieve", json=body)["matches"]
        return matches

    def generate(
        self,
        prompt: str,
        *,
        images: Sequence[bytes] = (),
        steering: str | Sequence[Mapping[str, Any]] = "auto",
        demonstrations: Sequence[Example] = (),
        decoding: Mapping[str, Any] | None = None,
    ) -> Json:
        """The answer with what steered it."""
        return self._json("POST", "/generate", json=_question(prompt, images, steering, demonstrations, decoding))

    @contextmanager
    def stream(
        self,
        prompt: str,
        *,
        images: Sequence[bytes] = (),
        steering: str | Sequence[Mapping[str, Any]] = "auto",
        demonstrations: Sequence[Example] = (),
        decoding: Mapping[str, Any] | None = None,
    ) -> Iterator[Iterator[TextPiece | Json]]:
        """The pieces of the answer as they come, and last the answer as `generate` gives it.

        Leaving the `with` before the end cancels the request. Reading raises ServiceError when the answer fails midway.
        """
        body = _question(prompt, images, steering, demonstrations, decoding) | {"stream": True}
        with self._streamed("POST", "/generate", json=body) as response:
            yield _events(response)


def _question(
    prompt: str,
    images: Sequence[bytes],
    steering: str | Sequence[Mapping[str, Any]],
    demonstrations: Sequence[Example],
    decoding: Mapping[str, Any] | None,
) -> Json:
    return {
        "prompt": prompt,
        "images": [_base64(image) for image in images],
        "steering": steering,
        "demonstrations": [_demonstration(example) for example in demonstrations],
        "decoding": dict(decoding or {}),
    }


def _events(response: httpx.Response) -> Iterator[TextPiece | Json]:
    for event in EventSource(response).iter_sse():
        data: Json = json.loads(event.data)
        if event.event == "token":
            yield TextPiece(data["text"], data["tokens"])
        elif event.event == "done":
            yield data
            return
        elif event.event == "error":
            raise told(data)
    raise ServiceError(0, "The answer broke off.", "Ask again; the service's log may tell why.")


def _base64(image: bytes) -> str:
    return base64.b64encode(image).decode()


def _demonstration(example: Example) -> Json:
    return {"prompt": example.question, "images": [_base64(example.image)], "answer": example.answer}
