"""OpenAI's responses, with steering."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request

from vlibrary.api.http.bodies import json_docs, read_json
from vlibrary.api.http.deps import LibraryDep, ScopeDep
from vlibrary.api.http.middleware.answer_headers import report_steering, report_timings
from vlibrary.api.http.responses import json_or_stream, problems
from vlibrary.api.http.streams import AnswerStream, stream_answers
from vlibrary.api.openai.conversation import read_conversation
from vlibrary.api.openai.responses.answers import EVENT_SCHEMA, STREAM_EXAMPLE, Response, ResponseOut
from vlibrary.api.openai.responses.request import ResponsesIn
from vlibrary.library.answers import answer_all
from vlibrary.library.steer import plan

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post(
    "/responses",
    operation_id="create_response",
    summary="Create a steered response",
    response_model=ResponseOut,
    responses={
        **problems(400, 404, 413, 429, 500, 503, 504),
        200: json_or_stream("The response. With `stream`: its events", EVENT_SCHEMA, STREAM_EXAMPLE),
    },
    openapi_extra=json_docs(ResponsesIn),
)
async def create_response(request: Request, scope: ScopeDep, library: LibraryDep) -> ResponseOut | AnswerStream:
    """Compatible with OpenAI's responses, for text and images as input and text as output.

    `input` is a question, or a list of messages. Messages are read as those of a chat completion: earlier turns become
    demonstrations before the last question. The service stores nothing: `store` has no effect, and
    `previous_response_id` is refused. So are tools, files, audio, and images that are not data URLs.

    `vlibrary` in the request selects the steering, as in `POST /generate`. `vlibrary` in the response holds the vectors
    applied, or the reason why none was; in a stream it comes with the last event, `response.completed` or, if the
    answer reached `max_output_tokens`, `response.incomplete`. A stream that fails ends with the event `error`.
    """
    async with scope.deadline():
        body = await read_json(request, ResponsesIn)
    scope.set_timeout(body.vlibrary.timeout_s)
    prompt, query = read_conversation(body.to_messages())
    steering = body.vlibrary.to_steering(query)
    make_plan = partial(plan, prompt, steering, body.to_decoding(), model=body.model, library=library)
    planned = await scope.run_in_thread(make_plan)
    report_steering(request, [planned])
    response = Response(body, planned.model, request.url.path)
    if body.stream:
        return await stream_answers(scope, [planned], library.worker, response)
    (whole,) = await scope.run(answer_all([planned], library.worker, scope.time_left))
    report_timings(request, whole.generation.timings)
    return response.whole(whole)
