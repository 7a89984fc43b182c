"""OpenAI's chat completions, with steering."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request

from vlibrary.api.http.bodies import json_docs, read_json
from vlibrary.api.http.deps import LibraryDep, ScopeDep
from vlibrary.api.http.middleware.answer_headers import report_steering, report_timings
from vlibrary.api.http.responses import json_or_stream, problems
from vlibrary.api.http.streams import AnswerStream, stream_answers
from vlibrary.api.openai.answers import EVENT_SCHEMA, STREAM_EXAMPLE, ChatOut, Completion
from vlibrary.api.openai.chat import ChatIn
from vlibrary.api.openai.conversation import read_conversation
from vlibrary.api.openai.tools import name_tools
from vlibrary.library.answers import answer_all, vary_seeds
from vlibrary.library.steer import plan

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post(
    "/chat/completions",
    operation_id="create_chat_completion",
    summary="Create a steered chat completion",
    response_model=ChatOut,
    responses={
        **problems(400, 404, 413, 429, 500, 503, 504),
        200: json_or_stream("The completion. With `stream`: its chunks, then `[DONE]`", EVENT_SCHEMA, STREAM_EXAMPLE),
    },
    openapi_extra=json_docs(ChatIn),
)
async def create_completion(request: Request, scope: ScopeDep, library: LibraryDep) -> ChatOut | AnswerStream:
    """Compatible with OpenAI's chat completions: set a client's base URL to `/v1` of this service, with any API key.

    Send images as data URLs. Earlier turns become demonstrations before the last question. System messages are put
    before the text of the next user message, and the images of a turn before its text. `max_tokens` defaults to 256 and
    is lowered to what the prompt leaves of the context. With `n`, the answers of one prompt have different seeds, which
    follow from `seed`. Options that would change the answer and are not supported are rejected; those that change
    nothing are listed in `vlibrary.ignored`.

    With `tools` and a `tool_choice` of `required` or a function, the answer is a call: JSON of the function's schema in
    `tool_calls`. The model does not see the tools: say in the messages what you want.

    `vlibrary` in the request selects the steering, as in `POST /generate`. `vlibrary` in the response holds the vectors
    applied, or the reason why none was; in a stream it comes with the chunk that has the `finish_reason`. Errors also
    carry OpenAI's `error` object.
    """
    async with scope.deadline():
        body = await read_json(request, ChatIn)
    scope.set_timeout(body.vlibrary.timeout_s)
    prompt, query = read_conversation(body.messages)
    steering = body.vlibrary.to_steering(query)
    make_plan = partial(plan, prompt, steering, body.decoding(), model=body.model, library=library)
    planned = await scope.run_in_thread(make_plan)
    report_steering(request, [planned])
    plans = vary_seeds([planned] * (body.n or 1))
    completion = Completion(body, planned.model, request.url.path)
    with name_tools(body.forced):
        if body.stream:
            return await stream_answers(scope, plans, library.worker, completion)
        whole = completion.whole(await scope.run(answer_all(plans, library.worker, scope.time_left)))
    report_timings(request, whole.vlibrary.timings)
    return whole
