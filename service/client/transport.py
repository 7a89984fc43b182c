"""Connections to a service, and its problem documents as exceptions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import ValidationError

from vlibrary.domain.errors import ErrorCode, InvalidInput, VLibraryError
from vlibrary.domain.labels import check_actor

T = TypeVar("T")

# The service's own timeouts come first, so that it reports what was late.
GRACE_S = 30.0
TIMEOUT_S = 120.0 + GRACE_S
# Servers close idle connections after 5 s; closing first avoids sending a request into a closing connection.
KEEPALIVE_S = 2.0


class ServiceError(VLibraryError):
    """The service answered with an error, or did not answer.

    status: the HTTP status, 0 without an answer. code: the last part of the problem's `type`, such as
    "vector-not-found"; see `ErrorCode`. detail: what is wrong. cure: what to do.
    """

    code: str = ErrorCode.SERVICE_ERROR
    title: str = "The request failed"

    def __init__(self, status: int, detail: str, cure: str) -> None:
        super().__init__(detail, cure)
        self.status = status

    @classmethod
    def of_problem(cls, problem: dict[str, Any]) -> Self:
        """Return the error that a problem document (RFC 9457) describes. Raises KeyError if it is not one."""
        error = cls(problem["status"], problem["detail"], problem["cure"])
        error.code = problem["type"].rpartition("/")[2]
        error.title = problem["title"]
        return error

    @classmethod
    def of_response(cls, response: httpx.Response) -> Self:
        """Return the error of a response whose body has been read."""
        try:
            return cls.of_problem(response.json())
        except (ValueError, KeyError, TypeError, AttributeError):
            detail = f"HTTP {response.status_code}: {response.text[:500]}"
            return cls(response.status_code, detail, "Check the address and the service's log.")


def _check_url(url: str) -> None:
    """Raise InvalidInput unless the URL is one that a request can be sent to."""
    try:
        parsed = httpx.URL(url)
        parsed.host.encode("idna")  # as the resolver does
        problem = "" if parsed.scheme in ("http", "https") else "it does not begin with http:// or https://"
        if not problem and not 0 < (parsed.port or 80) < 2**16:
            problem = "the port is not between 1 and 65535"
        if not problem and not parsed.host:
            problem = "it names no host"
    except (httpx.InvalidURL, UnicodeError) as error:
        problem = str(error)
    if problem:
        raise InvalidInput(
            f"Invalid URL {url!r:.200}: {problem}.",
            "Use http://HOST:PORT, with an IPv6 address in brackets: http://[::1]:8000.",
        )


class _Connection:
    """What both transports share. url: the service's address. Raises InvalidInput for an invalid url or actor."""

    def __init__(self, url: str, timeout: float, actor: str | None) -> None:
        _check_url(url)
        self.url = url
        self._options: dict[str, Any] = {
            "base_url": url,
            "timeout": timeout,
            "headers": {} if actor is None else {"X-Actor": check_actor(actor)},
            "limits": httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEEPALIVE_S),
        }

    def parse(self, parse: Callable[[httpx.Response], T], response: httpx.Response) -> T:
        """Return the parsed response. Raises ServiceError for a body that this client does not understand."""
        try:
            return parse(response)
        except (ValidationError, ValueError) as error:
            raise ServiceError(
                response.status_code,
                f"Unexpected response to {response.request.method} {response.request.url.path}: {error}",
                "Use a client and a service of the same version.",
            ) from error

    @contextmanager
    def _wrap_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.InvalidURL as error:
            raise InvalidInput(f"The request has no valid URL: {error}.", "Shorten the reference or filter.") from error
        except httpx.HTTPError as error:
            raise ServiceError(
                0,
                f"No answer from {self.url}: {error}.",
                "Start the service with `vlibrary serve`, or give its address with --url.",
            ) from error


class Transport(_Connection):
    """Blocking connections to one service."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT_S, actor: str | None = None) -> None:
        super().__init__(url, timeout, actor)
        self._http = httpx.Client(**self._options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(self, method: str, path: str, accept: Collection[int] = (), **options: Any) -> httpx.Response:
        """Return the response. Raises ServiceError for an error status that is not in accept."""
        with self._wrap_errors():
            response = self._http.request(method, path, **options)
        if response.is_error and response.status_code not in accept:
            raise ServiceError.of_response(response)
        return response

    @contextmanager
    def open_stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """Yield the response before its body is read. Raises ServiceError."""
        with self._wrap_errors(), self._http.stream(method, path, **options) as response:
            if response.is_error:
                response.read()
                raise ServiceError.of_response(response)
            yield response


class AsyncTransport(_Connection):
    """Connections to one service for asyncio."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT_S, actor: str | None = None) -> None:
        super().__init__(url, timeout, actor)
        self._http = httpx.AsyncClient(**self._options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def request(self, method: str, path: str, accept: Collection[int] = (), **options: Any) -> httpx.Response:
        """Return the response. Raises ServiceError for an error status that is not in accept."""
        with self._wrap_errors():
            response = await self._http.request(method, path, **options)
        if response.is_error and response.status_code not in accept:
            raise ServiceError.of_response(response)
        return response

    @asynccontextmanager
    async def open_stream(self, method: str, path: str, **options: Any) -> AsyncIterator[httpx.Response]:
        """Yield the response before its body is read. Raises ServiceError."""
        with self._wrap_errors():
            async with self._http.stream(method, path, **options) as response:
                if response.is_error:
                    await response.aread()
                    raise ServiceError.of_response(response)
                yield response
