"""What a route needs, handed to it by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.domain.ports import Artifacts, Catalogue, Clock, Inference, TaskIndex


@dataclass(frozen=True)
class Ports:
    """The outside world of one api process."""

    catalogue: Catalogue
    artifacts: Artifacts
    index: TaskIndex
    worker: Inference
    clock: Clock


@dataclass(frozen=True)
class Limits:
    """The largest bodies that are taken, in bytes.

    timeout_s: seconds for an answer whose request names no time of its own.
    """

    artifact_bytes: int = 64 * 2**20
    card_bytes: int = 4 * 2**20
    request_bytes: int = 96 * 2**20
    timeout_s: float = 120.0


def _ports(request: Request) -> Ports:
    ports: Ports = request.app.state.ports
    return ports


def _limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


UsePorts = Annotated[Ports, Depends(_ports)]
UseLimits = Annotated[Limits, Depends(_limits)]
