"""A typed client for a running service: what the command line, the demo and scripts use.

with Client("http://127.0.0.1:8000") as library:
    vector = library.register(Path("colour.safetensors").read_bytes(), card_json)
    answer = library.generate("Which hue?", images=[png])
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import httpx
from httpx_sse import EventSource

from service.domain.errors import VLibraryError
from service.domain.example import Example
from service.domain.wire import TextPiece

Json = dict[str, Any]
# More than the service gives an answer by default, so that it is the service that says what was late.
TIMEOUT_S = 150.0


class ServiceError(VLibraryError):
    """The service answered with a problem, or did not answer at all. status: 0 when there was no answer."""

    slug, title = "service-error", "The service did not do what was asked"

    def __init__(self, status: int, detail: str, cure: str) -> None:
        super().__init__(detail, cure)
        self.status = status


class Client:
    """Calls one service; every method raises ServiceError with the service's own words and cure."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT_S) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def register(self, artifact: bytes, card: str, *, idempotency_key: str | None = None) -> Json:
        """The new vector's record."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        files = {"artifact": ("vector.safetensors", artifact), "card": ("card.json", card.encode())}
        return self._json("POST", "/vectors", files=files, headers=headers)

    def vectors(self, *, name: str | None = None) -> Iterator[Json]:
        """All records, newest first, page by page."""
        cursor: str | None = None
        while True:
            given = {"name": name, "cursor": cursor}
            page = self._json("GET", "/vectors", params={key: value for key, value in given.items() if value})
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def content(self, vector_id: str) -> bytes:
        """The artifact's bytes."""
        return self._send("GET", f"/vectors/{vector_id}/content").content

    def delete(self, vector_id: str) -> None:
        """Retire the vector."""
        self._send("DELETE", f"/vectors/{vector_id}")

    def retrieve(self, text: str | None, *, images: Sequence[bytes] = (), k: int = 5) -> list[Json]:
        """The best vectors, best first."""
        body = {"text": text, "images": [_base64(image) for image in images], "k": k}
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
        with self._reached(), self._http.stream("POST", "/generate", json=body) as response:
            if response.is_error:
                response.read()
                raise _problem(response)
            yield _events(response)

    def ready(self) -> Json:
        """The service's own checks; does not raise when one of them fails."""
        answer: Json = self._request("GET", "/readyz").json()
        return answer

    def models(self) -> list[Json]:
        """The models that are served."""
        items: list[Json] = self._json("GET", "/models")["items"]
        return items

    def _json(self, method: str, path: str, **more: Any) -> Json:
        answer: Json = self._send(method, path, **more).json()
        return answer

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        response = self._request(method, path, **more)
        if response.is_error:
            raise _problem(response)
        return response

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response:
        with self._reached():
            return self._http.request(method, path, **more)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise ServiceError(
                0,
                f"No answer from {self.url}: {error}.",
                "Start the service with `vlibrary serve`, or name another with --url.",
            ) from error


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
            raise _told(data)
    raise ServiceError(0, "The answer broke off.", "Ask again; the service's log may tell why.")


def _told(problem: Json) -> ServiceError:
    return ServiceError(problem["status"], f"{problem['title']}: {problem['detail']}", problem["cure"])


def _problem(response: httpx.Response) -> ServiceError:
    try:
        return _told(response.json())
    except (ValueError, KeyError, TypeError):
        return ServiceError(response.status_code, f"HTTP {response.status_code}: {response.text[:500]}", "See its log.")


def _base64(image: bytes) -> str:
    return base64.b64encode(image).decode()


def _demonstration(example: Example) -> Json:
    return {"prompt": example.question, "images": [_base64(example.image)], "answer": example.answer}
