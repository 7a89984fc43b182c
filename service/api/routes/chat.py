"""Chat completions as OpenAI's clients ask for them, steered."""

from __future__ import annotations

import secrets
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request

from vlibrary.api.http.bodies import json_docs, read_json
from vlibrary.api.http.deps import UseLibrary, UseLimits, UsePlace
from vlibrary.api.http.responses import problems, streamed
from vlibrary.api.http.streams import AnswerStream, respond
from vlibrary.api.openai.answers import ChatModelOut, ChatModelsOut, ChatOut, Completion
from vlibrary.api.openai.conversation import read_conversation
from vlibrary.api.openai.schemas import ChatIn
from vlibrary.api.planning import planned
from vlibrary.domain.wire import Decoding
from vlibrary.library.steer import answer, stream

router = APIRouter(prefix="/v1", tags=["OpenAI"])

# OpenAI's API lets an answer fill the context; here the answer's length is counted before it is begun.
_DEFAULT_TOKENS = 256
_SEEDS = 2**63
_EVENTS = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "description": "A chat.completion.chunk or an error as JSON, or [DONE]"}},
}
_EXAMPLE = """\
data: {"id":"chatcmpl-01K9Z4T0XJ4V6W8M2Q5R7S9A1B","object":"chat.completion.chunk","created":1795000000,\
"model":"vlibrary/bundled-llava","system_fingerprint":"9c2e5d1f","choices":[{"index":0,"delta":{"content":"lorp"},\
"logprobs":null,"finish_reason":null}]}

data: [DONE]

"""


@router.post(
    "/chat/completions",
    operation_id="create_chat_completion",
    summary="Answer a conversation, steered",
    response_model=ChatOut,
    responses={
        **problems(400, 404, 413, 422, 429, 500, 503, 504),
        200: streamed("The answer; with stream, its chunks and [DONE]", _EVENTS, _EXAMPLE),
    },
    openapi_extra=json_docs(ChatIn, name="ChatIn"),
)
async def complete(request: Request, place: UsePlace, library: UseLibrary, limits: UseLimits) -> ChatOut | AnswerStream:
    """OpenAI's chat completions: set a client's base URL to this service's `/v1`, with any API key.

    Pictures come as data URLs. Earlier turns become demonstrations before the last question, system messages go before
    the next user message's text, and a turn's pictures go before its text. Left out, `max_tokens` is 256, or half of
    the model's context if that is less. What the service cannot do (several answers, tools, logprobs ...) is refused.

    `vlibrary` in the request says how to steer, as in `POST /generate`; in the answer it tells what acted, or why
    nothing did. In a stream it comes with the chunk that has the `finish_reason`. Errors carry OpenAI's `error` too.
    """
    async with place.within(limits.timeout_s):
        body = await read_json(request, ChatIn)
    prompt, query = read_conversation(body.messages)
    info = await place.asked(partial(library.worker.find, body.model), limits.seconds(body.vlibrary.timeout_s))
    plan = await planned(
        body.vlibrary,
        prompt,
        _decoding(body, info.context_length),
        model_id=info.model.model_id,
        query=query,
        place=place,
        library=library,
        limits=limits,
    )
    completion = Completion(info, usage=bool(body.stream_options and body.stream_options.include_usage))
    if body.stream:
        return await respond(place, stream(plan, library.worker), completion)
    return completion.whole(await place.finished(answer(plan, library.worker)))


@router.get(
    "/models",
    operation_id="list_chat_models",
    summary="Which models are served, in OpenAI's words",
    responses=problems(503),
)
def models(library: UseLibrary) -> ChatModelsOut:
    """Their ids; GET /models tells more."""
    return ChatModelsOut(data=[ChatModelOut(id=info.model.model_id) for info in library.worker.models()])


@router.get(
    "/models/{model_id:path}",
    operation_id="get_chat_model",
    summary="Is this model served?",
    responses=problems(404, 422, 503),
)
def model(
    model_id: Annotated[str, Path(description="Id of the base model; it may contain slashes")], library: UseLibrary
) -> ChatModelOut:
    """The model, or 404."""
    return ChatModelOut(id=library.worker.find(model_id).model.model_id)


def _decoding(body: ChatIn, context_length: int) -> Decoding:
    return Decoding(
        max_new_tokens=body.most_tokens or min(_DEFAULT_TOKENS, context_length // 2),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=secrets.randbelow(_SEEDS) if body.seed is None else body.seed,
        stop=tuple(body.stop or ()),
    )
