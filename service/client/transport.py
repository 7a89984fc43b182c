"""How the client reaches a service, and how its failures are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx

from vlibrary.domain.errors import ErrorCode, VLibraryError

Json = dict[str, Any]
# More than the service gives an answer by default, so that it is the service that says what was late.
TIMEOUT_S = 150.0
# Below the 5 s after which servers hang up on a connection that nobody uses, lest a request meets its end.
KEEP_S = 2.0


class ServiceError(VLibraryError):
    """The service answered with a problem, or did not answer at all. status: 0 when there was no answer."""

    code, title = ErrorCode.SERVICE_ERROR, "The service returned an error"

    def __init__(self, status: int, detail: str, cure: str) -> None:
        super().__init__(detail, cure)
        self.status = status


class Transport:
    """One service's connections. actor: who is told to be asking, for the service's audit log."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT_S, actor: str | None = None) -> None:
        self.url = url
        headers = {} if actor is None else {"X-Actor": actor}
        kept = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEEP_S)
        self._http = httpx.Client(base_url=url, timeout=timeout, headers=headers, limits=kept)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def _json(self, method: str, path: str, **more: Any) -> Json:
        answer: Json = self._send(method, path, **more).json()
        return answer

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        response = self._request(method, path, **more)
        if response.is_error:
            raise problem_of(response)
        return response

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response:
        with self._reached():
            return self._http.request(method, path, **more)

    @contextmanager
    def _streamed(self, method: str, path: str, **more: Any) -> Iterator[httpx.Response]:
        with self._reached(), self._http.stream(method, path, **more) as response:
            if response.is_error:
                response.read()
                raise problem_of(response)
            yield response

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


def told(problem: Json) -> ServiceError:
    """A problem document as an error."""
    return ServiceError(problem["status"], f"{problem['title']}: {problem['detail']}", problem["cure"])


def problem_of(response: httpx.Response) -> ServiceError:
    """What an answer that has been read says of its failure."""
    try:
        return told(response.json())
    except (ValueError, KeyError, TypeError):
        return ServiceError(response.status_code, f"HTTP {response.status_code}: {response.text[:500]}", "See its log.")
