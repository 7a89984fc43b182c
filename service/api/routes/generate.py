"""Answer with steering."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request
from fastapi.sse import format_sse_event

from vlibrary.api.http.bodies import body_docs, read_body
from vlibrary.api.http.deps import UseLibrary, UseLimits, UsePlace
from vlibrary.api.http.errors import Problem
from vlibrary.api.http.responses import event, problems, streamed
from vlibrary.api.http.streams import AnswerStream, respond
from vlibrary.api.planning import planned
from vlibrary.domain.wire import TextPiece
from vlibrary.library.steer import Answer, Plan, answer, stream
from vlibrary.schemas.generate import GenerateIn, GenerateOut, SteeringOut, TokenOut

router = APIRouter(prefix="/generate", tags=["generate"])

_EVENTS = {
    "oneOf": [
        event("steering", "SteeringOut"),
        event("token", "TokenOut"),
        event("done", "GenerateOut"),
        event("error", "ProblemOut"),
    ]
}
_EXAMPLE = """\
event: steering
data: {"applied":[],"reason":{"code":"off","detail":"The request switched steering off."}}

event: token
data: {"text":"lorp","tokens":1}

event: done
data: {"text":"lorp","finish_reason":"stop","model":"vlibrary/bundled-llava","steering":{"applied":[],\
"reason":{"code":"off","detail":"The request switched steering off."}},\
"usage":{"prompt_tokens":11,"completion_tokens":2},"timings":{"total_s":0.03}}

"""


@router.post(
    "",
    operation_id="generate",
    summary="Answer a prompt, steered",
    response_model=GenerateOut,
    responses={
        **problems(400, 404, 413, 422, 429, 500, 503, 504),
        200: streamed("The answer; with stream, the events steering, token ..., and done or error", _EVENTS, _EXAMPLE),
    },
    openapi_extra=body_docs(GenerateIn, name="GenerateIn"),
)
async def generate(
    request: Request, place: UsePlace, library: UseLibrary, limits: UseLimits
) -> GenerateOut | AnswerStream:
    """The answer names each vector that acted on it, or says why none did.

    `steering` is "auto" (the best match of the prompt and its images, if it passes its threshold), "off", or a list of
    `{"id", "strength"}`. `demonstrations` go into the prompt, for comparison with the vector that replaces them.

    With `"stream": true` the answer comes as server-sent events: `steering` (what will act, or why nothing), `token`
    (`{"text", "tokens"}`: the next piece and how many tokens are drawn so far), and last `done` (the whole answer) or
    `error` (a problem). Leaving cancels the request.
    """
    async with place.within(limits.timeout_s):
        body = await read_body(request, GenerateIn, limits)
    plan = await planned(
        body,
        body.prompt_of(),
        body.decoding.decoding(),
        model_id=body.model,
        place=place,
        library=library,
        limits=limits,
    )
    if body.stream:
        return await respond(place, stream(plan, library.worker), _Events(plan))
    return GenerateOut.of(await place.finished(answer(plan, library.worker)))


class _Events:
    """Implements vlibrary.api.http.streams.Script with events named steering, token, done and error."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def opening(self) -> bytes:
        return _event("steering", SteeringOut.of(self._plan).model_dump_json())

    def piece(self, piece: TextPiece) -> bytes:
        return _event("token", TokenOut.of(piece).model_dump_json())

    def ending(self, answer: Answer) -> bytes:
        return _event("done", GenerateOut.of(answer).model_dump_json())

    def failure(self, problem: Problem) -> bytes:
        return _event("error", json.dumps(problem))


def _event(name: str, data: str) -> bytes:
    return format_sse_event(event=name, data_str=data)
