"""Headers that say how an answer was steered and how long it took, for clients, benchmarks and logs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlibrary.domain.matching.decision import Decision
from vlibrary.library.steer import AppliedVector, Plan

VECTORS_HEADER = "X-VLibrary-Vectors"
REASON_HEADER = "X-VLibrary-Reason"
_STEERING = "steering_headers"
_TIMINGS = "timings"


def report_steering(request: Request, plans: Sequence[Plan]) -> None:
    """Add the vectors of these plans, and the reasons of those without any, to the response that is sent next."""
    vectors = dict.fromkeys(_format(one, plan.decision) for plan in plans for one in plan.applied)
    reasons = dict.fromkeys(plan.reason.code.value for plan in plans if plan.reason is not None)
    found = {VECTORS_HEADER: ", ".join(vectors), REASON_HEADER: ", ".join(reasons)}
    setattr(request.state, _STEERING, {name: value for name, value in found.items() if value})


def report_timings(request: Request, timings: Mapping[str, float]) -> None:
    """Add the stages of an answer, in seconds, to the Server-Timing header of the response that is sent next."""
    setattr(request.state, _TIMINGS, timings)


class AnswerHeaders:
    """Adds Server-Timing to every response, and to those that are no errors what `report_steering` found.

    Server-Timing has the `total` from the request's arrival until the response starts, in ms. In a stream, the headers
    come before the first event.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers, state = MutableHeaders(scope=message), scope.get("state", {})
                if message["status"] < HTTPStatus.BAD_REQUEST:
                    headers.update(state.get(_STEERING, {}))
                stages = state.get(_TIMINGS, {}) | {"total_s": time.perf_counter() - arrived}
                entries = (f"{name.removesuffix('_s')};dur={1000 * seconds:.1f}" for name, seconds in stages.items())
                headers["Server-Timing"] = ", ".join(entries)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _format(one: AppliedVector, decision: Decision | None) -> str:
    """Return the vector as an item of a structured field (RFC 9651): a string with parameters, ASCII only."""
    record = one.record
    numbers = {
        "score": one.score,
        "probability": decision and decision.best and decision.best.probability,
        "margin": decision and decision.margin,
    }
    found = "".join(f';{name}="{number:.4f}"' for name, number in numbers.items() if number is not None)
    return (
        f'"{record.name}:{record.version}";id="{record.id}";sha256="{record.sha256}"{found};strength="{one.strength:g}"'
    )
