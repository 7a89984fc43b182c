"""Answer a prompt with steering."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request
from fastapi.sse import format_sse_event

from vlibrary.api.http.bodies import json_or_form_docs, read_json_or_form
from vlibrary.api.http.deps import NO_PARAMETERS, LibraryDep, LimitsDep, ScopeDep
from vlibrary.api.http.middleware.answer_headers import report_steering, report_timings
from vlibrary.api.http.problems import Problem
from vlibrary.api.http.responses import event, json_or_stream, problems
from vlibrary.api.http.streams import AnswerStream, stream_answers
from vlibrary.domain.wire import TextPiece
from vlibrary.library.steer import Answer, Plan, answer, plan
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
data: {"applied":[],"reason":{"code":"off","detail":"Steering is switched off."},"query_text":null,"decision":null}

event: token
data: {"text":"lorp","tokens":1}

event: done
data: {"text":"lorp","finish_reason":"stop","model":"vlibrary/bundled-llava","steering":{"applied":[],\
"reason":{"code":"off","detail":"Steering is switched off."},"query_text":null,"decision":null},\
"usage":{"prompt_tokens":11,"completion_tokens":2},"timings":{"total_s":0.03}}

"""


@router.post(
    "",
    operation_id="generate",
    summary="Generate a steered answer",
    response_model=GenerateOut,
    dependencies=[NO_PARAMETERS],
    responses={
        **problems(400, 404, 413, 422, 429, 500, 503, 504),
        200: json_or_stream(
            "The answer. With `stream`: the events `steering`, `token` (repeated), then `done` or `error`",
            _EVENTS,
            _EXAMPLE,
        ),
    },
    openapi_extra=json_or_form_docs(GenerateIn),
)
async def generate(
    request: Request, scope: ScopeDep, library: LibraryDep, limits: LimitsDep
) -> GenerateOut | AnswerStream:
    """Generates an answer and names the vectors applied to it, or the reason why none was.

    `steering` is `"auto"` (apply the best of the vectors that fit the prompt and its images),
    `"off"`, or a list of `{"id", "strength"}`. `demonstrations` are added to the prompt, to compare in-context learning
    with the vector that replaces it.

    With `"stream": true`, the answer comes as server-sent events: `steering` (the vectors applied, or the reason),
    `token` (the next piece of text, and the number of tokens so far), and finally `done` (the whole answer) or `error`
    (a problem document). Closing the connection cancels the request.

    Send JSON with base64 images, or a form with uploaded ones.
    """
    async with scope.deadline():
        body = await read_json_or_form(request, GenerateIn, limits.card_bytes)
    scope.set_timeout(body.timeout_s)
    make_plan = partial(
        plan,
        body.to_prompt(),
        body.to_steering(),
        body.decoding.decoding(),
        model=body.model,
        library=library,
    )
    planned = await scope.run_in_thread(make_plan)
    report_steering(request, [planned])
    if body.stream:
        return await stream_answers(scope, [planned], library.worker, _Events(planned))
    whole = await scope.run(answer(planned.with_timeout(scope.time_left()), library.worker))
    report_timings(request, whole.generation.timings)
    return GenerateOut.of(whole)


class _Events:
    """Implements vlibrary.api.http.streams.EventFormat with events named steering, token, done and error."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def opening(self) -> bytes:
        return _format("steering", SteeringOut.of(self._plan).model_dump_json())

    def piece(self, piece: TextPiece, _index: int) -> bytes:
        return _format("token", TokenOut.of(piece).model_dump_json(exclude_none=True))

    def answer_end(self, answer: Answer, _index: int) -> bytes:
        return _format("done", GenerateOut.of(answer).model_dump_json())

    def ending(self, _answers: Sequence[Answer]) -> bytes:
        return b""

    def failure(self, problem: Problem) -> bytes:
        return _format("error", json.dumps(problem))


def _format(name: str, data: str) -> bytes:
    return format_sse_event(event=name, data_str=data)
