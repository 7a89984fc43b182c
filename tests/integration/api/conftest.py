"""A service with one vector, and OpenAI's client connected to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.support.library import memory_library, register
from tests.support.openai_client import client_of
from vlibrary.library.library import Library


@pytest.fixture(scope="module")
def library() -> Library:
    return memory_library()


@pytest.fixture(scope="module")
def vector_id(library: Library) -> str:
    return register(library, "colour", "Which hue?").id


@pytest.fixture(scope="module")
def client(library: Library, vector_id: str) -> Iterator[OpenAI]:
    with client_of(library) as client:
        yield client
