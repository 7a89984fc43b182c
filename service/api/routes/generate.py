"""Answer with steering."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from service.api.bodies import body_docs, read_body
from service.api.deps import UseLimits, UsePorts
from service.api.responses import problems
from service.api.schemas import GenerateIn, GenerateOut
from service.domain.wire import Decoding, Demonstration, Prompt
from service.library.steer import Auto, Chosen, Off, Steering, answer, plan

router = APIRouter(prefix="/generate", tags=["generate"])


@router.post(
    "",
    operation_id="generate",
    summary="Answer a prompt, steered",
    responses=problems(400, 404, 413, 422, 500, 503),
    openapi_extra=body_docs(GenerateIn, name="GenerateIn"),
)
async def generate(request: Request, ports: UsePorts, limits: UseLimits) -> GenerateOut:
    """The answer names each vector that acted on it, or says why none did.

    `steering` is "auto" (the best match of the prompt and its images, if it passes its threshold), "off", or a list of
    `{"id", "strength"}`. `demonstrations` go into the prompt, for comparison with the vector that replaces them.
    """
    body = await read_body(request, GenerateIn, limits)
    planned = await run_in_threadpool(
        plan,
        _prompt(body),
        _steering(body),
        Decoding(**body.decoding.model_dump()),
        model_id=body.model,
        catalogue=ports.catalogue,
        index=ports.index,
        worker=ports.worker,
    )
    return GenerateOut.of(await answer(planned, ports.worker))


def _prompt(body: GenerateIn) -> Prompt:
    demonstrations = (Demonstration(one.prompt, tuple(one.images), one.answer) for one in body.demonstrations)
    return Prompt(body.prompt, tuple(body.images), tuple(demonstrations))


def _steering(body: GenerateIn) -> Steering:
    if body.steering == "auto":
        return Auto(body.strength)
    if body.steering == "off":
        return Off()
    return Chosen(tuple((one.id, one.strength) for one in body.steering))
