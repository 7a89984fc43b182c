"""What a route needs, handed to it by name."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from vlibrary.api.http.admission import Gate, Place
from vlibrary.library.library import Library


@dataclass(frozen=True)
class Limits:
    """The largest bodies that are taken, in bytes.

    timeout_s: seconds for an answer whose request names no time of its own, and for a body to arrive. inside: how many
    requests for an answer, for a search, or with a vector's bytes in them are inside at a time.
    """

    artifact_bytes: int = 64 * 2**20
    card_bytes: int = 4 * 2**20
    request_bytes: int = 96 * 2**20
    timeout_s: float = 120.0
    inside: int = 256

    def seconds(self, asked: float | None) -> float:
        """How long an answer may take whose request asked for this time, or for none."""
        return self.timeout_s if asked is None else asked


def _library(request: Request) -> Library:
    library: Library = request.app.state.library
    return library


def _limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


async def _place(request: Request) -> AsyncGenerator[Place]:
    gate: Gate = request.app.state.gate
    with gate.entered(request) as place:
        yield place


UseLibrary = Annotated[Library, Depends(_library)]
UseLimits = Annotated[Limits, Depends(_limits)]
# Taken before the body is read, and kept until the answer is sent whole.
TAKES_PLACE = Depends(_place)
UsePlace = Annotated[Place, TAKES_PLACE]
