"""Headers that say how an answer was steered, for clients and logs that read no body."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlibrary.domain.matching.decision import Decision
from vlibrary.library.steer import AppliedVector, Plan

VECTORS_HEADER = "X-VLibrary-Vectors"
REASON_HEADER = "X-VLibrary-Reason"
_STATE = "steering_headers"


def report_steering(request: Request, plans: Sequence[Plan]) -> None:
    """Add the vectors of these plans, and the reasons of those without any, to the response that is sent next."""
    vectors = dict.fromkeys(_format(one, plan.decision) for plan in plans for one in plan.applied)
    reasons = dict.fromkeys(plan.reason.code.value for plan in plans if plan.reason is not None)
    found = {VECTORS_HEADER: ", ".join(vectors), REASON_HEADER: ", ".join(reasons)}
    setattr(request.state, _STATE, {name: value for name, value in found.items() if value})


class SteeringHeaders:
    """Adds the headers to responses that are no errors; in a stream they come before the first event."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_steering(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < HTTPStatus.BAD_REQUEST:
                MutableHeaders(scope=message).update(scope.get("state", {}).get(_STATE, {}))
            await send(message)

        await self._app(scope, receive, send_with_steering)


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
