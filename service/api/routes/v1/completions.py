"""OpenAI's completions, with steering."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request

from vlibrary.api.http.bodies import json_docs, read_json
from vlibrary.api.http.deps import LibraryDep, ScopeDep
from vlibrary.api.http.middleware.answer_headers import report_steering, report_timings
from vlibrary.api.http.responses import json_or_stream, problems
from vlibrary.api.http.streams import AnswerStream, stream_answers
from vlibrary.api.openai.answers import EVENT_SCHEMA
from vlibrary.api.openai.completions.answers import STREAM_EXAMPLE, CompletionOut, TextCompletion
from vlibrary.api.openai.completions.request import CompletionsIn
from vlibrary.library.answers import answer_all, vary_seeds
from vlibrary.library.steer import plan

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post(
    "/completions",
    operation_id="create_text_completion",
    summary="Create steered text completions",
    response_model=CompletionOut,
    responses={
        **problems(400, 404, 413, 429, 500, 503, 504),
        200: json_or_stream(
            "The completions. With `stream`: their chunks, then `[DONE]`", EVENT_SCHEMA, STREAM_EXAMPLE
        ),
    },
    openapi_extra=json_docs(CompletionsIn),
)
async def create_completion(request: Request, scope: ScopeDep, library: LibraryDep) -> CompletionOut | AnswerStream:
    """Compatible with OpenAI's completions: the model continues a text as it is, without its chat template.

    The text may hold the template's control tokens, but no image: send images to `/v1/chat/completions`. A prompt can
    be token ids of the model's tokenizer; `auto` then applies no vector, because it searches with a text. With `echo`
    and `logprobs`, the log-probabilities of the prompt come first, as harnesses need them to score given answers.

    `vlibrary` in the request selects the steering, as in `POST /generate`. `vlibrary` in each choice holds the vectors
    applied, or the reason why none was; in a stream it comes with the chunk that has the `finish_reason`.
    """
    async with scope.deadline():
        body = await read_json(request, CompletionsIn)
    scope.set_timeout(body.vlibrary.timeout_s)
    steering, decoding = body.vlibrary.to_steering(), body.to_completion_decoding()
    planned = await scope.run_in_threads(
        [partial(plan, one, steering, decoding, model=body.model, library=library) for one in body.to_prompts()]
    )
    report_steering(request, planned)
    plans = vary_seeds([one for one in planned for _ in range(body.samples)])
    completion = TextCompletion(body, planned[0].model, request.url.path)
    if body.stream:
        return await stream_answers(scope, plans, library.worker, completion)
    whole = completion.whole(await scope.run(answer_all(plans, library.worker, scope.time_left)))
    if whole.vlibrary is not None:
        report_timings(request, whole.vlibrary.timings)
    return whole
