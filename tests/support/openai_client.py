"""The official OpenAI client, connected to a service in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from openai import OpenAI

from tests.support.live_server import live
from vlibrary.api.app import create_app
from vlibrary.api.http.deps import Limits
from vlibrary.library.library import Library


@contextmanager
def client_of(library: Library, limits: Limits | None = None) -> Iterator[OpenAI]:
    """Yield a client of a service with this library during the block; it never retries."""
    with live(create_app(library, limits)) as url, OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client
