"""One HTTP request as a value, and methods that are written once for both clients.

A method decorated with `endpoint` or `paged` only describes its request. On a `Client` it sends the request and returns
the result; on an `AsyncClient` it returns an awaitable or an async iterator.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import httpx

from vlibrary.client.transport import AsyncTransport, Transport

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request and how its response becomes a result.

    options: keyword arguments of httpx's `request`. accept: error statuses whose body `parse` reads, too.
    """

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    options: Mapping[str, Any] = field(default_factory=dict)
    accept: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items of a listing. next: the request for the following page, None on the last."""

    items: list[T]
    next: Call[Page[T]] | None


class Sender(Transport):
    """Sends calls and waits for their results."""

    def send(self, call: Call[T]) -> T:
        """Return the call's result. Raises ServiceError."""
        return self.parse(call.parse, self.request(call.method, call.path, call.accept, **call.options))

    def iterate(self, call: Call[Page[T]]) -> Iterator[T]:
        """Yield the items of all pages, fetching each page when it is needed."""
        following: Call[Page[T]] | None = call
        while following is not None:
            page = self.send(following)
            yield from page.items
            following = page.next


class AsyncSender(AsyncTransport):
    """Sends calls without blocking the event loop."""

    async def send(self, call: Call[T]) -> T:
        """Return the call's result. Raises ServiceError."""
        return self.parse(call.parse, await self.request(call.method, call.path, call.accept, **call.options))

    async def iterate(self, call: Call[Page[T]]) -> AsyncIterator[T]:
        """Yield the items of all pages, fetching each page when it is needed."""
        following: Call[Page[T]] | None = call
        while following is not None:
            page = await self.send(following)
            for item in page.items:
                yield item
            following = page.next


class endpoint(Generic[P, T]):  # noqa: N801  a decorator
    """A method that makes one call."""

    def __init__(self, build: Callable[Concatenate[Any, P], Call[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, client: Sender, owner: type | None = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncSender, owner: type | None = None) -> Callable[P, Awaitable[T]]: ...
    @overload
    def __get__(self, client: None, owner: type | None = None) -> Callable[Concatenate[Any, P], Call[T]]: ...

    def __get__(self, client: Any, owner: type | None = None) -> Any:
        """Return the method bound to a client, or on a class the undecorated method."""
        return self._build if client is None else _bind(self._build, client, client.send)


class paged(Generic[P, T]):  # noqa: N801  a decorator
    """A method that iterates over the items of a listing."""

    def __init__(self, build: Callable[Concatenate[Any, P], Call[Page[T]]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, client: Sender, owner: type | None = None) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: AsyncSender, owner: type | None = None) -> Callable[P, AsyncIterator[T]]: ...
    @overload
    def __get__(self, client: None, owner: type | None = None) -> Callable[Concatenate[Any, P], Call[Page[T]]]: ...

    def __get__(self, client: Any, owner: type | None = None) -> Any:
        """Return the method bound to a client, or on a class the undecorated method."""
        return self._build if client is None else _bind(self._build, client, client.iterate)


def _bind(build: Callable[..., Any], client: Any, run: Callable[[Any], Any]) -> Callable[..., Any]:
    @functools.wraps(build)
    def method(*args: Any, **kwargs: Any) -> Any:
        return run(build(client, *args, **kwargs))

    return method
