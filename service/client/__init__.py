"""Python clients of a running service, for scripts, notebooks and the command line.

with Client("http://127.0.0.1:8000") as library:
    vector = library.register(Path("colour.safetensors").read_bytes(), Path("colour.card.json").read_text())
    library.set_alias("colour", "production", vector.id)
    answer = library.generate("Which hue?", images="picture.png")
    print(answer.text, answer.steering.applied)

`AsyncClient` has the same methods for asyncio. Results are pydantic models of `vlibrary.schemas`; every method raises
`ServiceError`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Unpack

from httpx_sse import EventSource, ServerSentEvent

from vlibrary.client.archive import import_calls
from vlibrary.client.call import AsyncSender, Call, Sender
from vlibrary.client.endpoints import Endpoints, GenerateOptions, VectorFilter, generate_request
from vlibrary.client.transport import ServiceError
from vlibrary.domain.wire import TextPiece
from vlibrary.formats.archive import Archive
from vlibrary.schemas.generate import GenerateOut, TokenOut
from vlibrary.schemas.registry import ImportedOut

__all__ = ["AsyncClient", "Client", "GenerateOptions", "ServiceError", "VectorFilter"]


class Client(Endpoints, Sender):
    """A client of one service; threads may share it.

    url: the service's address. timeout: seconds for each request. actor: the name in the service's audit log.
    """

    @contextmanager
    def stream(self, prompt: str, **options: Unpack[GenerateOptions]) -> Iterator[Iterator[TextPiece | GenerateOut]]:
        """Yield an iterator over the answer's text as it is generated; its last item is the whole answer.

        Leaving the `with` block early cancels the request. Iterating raises ServiceError when generation fails.
        """
        request = generate_request(prompt, options, stream=True)
        with self.open_stream("POST", "/generate", **request) as response:
            yield _until_done(EventSource(response).iter_sse())

    @contextmanager
    def export(self, **conditions: Unpack[VectorFilter]) -> Iterator[Iterator[bytes]]:
        """Yield an iterator over the bytes of an archive of the vectors that satisfy the conditions."""
        with self.open_stream("GET", "/export", params=dict(conditions)) as response:
            yield response.iter_bytes()

    def import_archive(self, archive: Archive, *, update: bool = False) -> Iterator[ImportedOut]:
        """Import an archive in batches and yield the result of each vector. Safe to repeat.

        update: overwrite the description, tags and metadata of vectors that the library already has.
        """
        for step in import_calls(archive, update=update):
            yield from self.send(step) if isinstance(step, Call) else [step]


class AsyncClient(Endpoints, AsyncSender):
    """The client for asyncio; methods are those of `Client`, to be awaited or iterated with `async for`."""

    @asynccontextmanager
    async def stream(
        self, prompt: str, **options: Unpack[GenerateOptions]
    ) -> AsyncIterator[AsyncIterator[TextPiece | GenerateOut]]:
        """Yield an async iterator over the answer's text; see `Client.stream`."""
        request = generate_request(prompt, options, stream=True)
        async with self.open_stream("POST", "/generate", **request) as response:
            yield _until_done_async(EventSource(response).aiter_sse())

    @asynccontextmanager
    async def export(self, **conditions: Unpack[VectorFilter]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield an async iterator over the bytes of an archive; see `Client.export`."""
        async with self.open_stream("GET", "/export", params=dict(conditions)) as response:
            yield response.aiter_bytes()

    async def import_archive(self, archive: Archive, *, update: bool = False) -> AsyncIterator[ImportedOut]:
        """Import an archive in batches and yield the result of each vector; see `Client.import_archive`."""
        for step in import_calls(archive, update=update):
            results = await self.send(step) if isinstance(step, Call) else [step]
            for result in results:
                yield result


def _until_done(events: Iterator[ServerSentEvent]) -> Iterator[TextPiece | GenerateOut]:
    for event in events:
        if (item := _parse(event)) is not None:
            yield item
        if isinstance(item, GenerateOut):
            return
    raise _interruption_error()


async def _until_done_async(events: AsyncIterator[ServerSentEvent]) -> AsyncIterator[TextPiece | GenerateOut]:
    async for event in events:
        if (item := _parse(event)) is not None:
            yield item
        if isinstance(item, GenerateOut):
            return
    raise _interruption_error()


def _parse(event: ServerSentEvent) -> TextPiece | GenerateOut | None:
    match event.event:
        case "token":
            token = TokenOut.model_validate_json(event.data)
            return TextPiece(token.text, token.tokens)
        case "done":
            return GenerateOut.model_validate_json(event.data)
        case "error":
            raise ServiceError.of_problem(json.loads(event.data))
        case _:
            return None


def _interruption_error() -> ServiceError:
    return ServiceError(0, "The stream ended before the answer was complete.", "Repeat the request; see the log.")
