"""OpenAI's answers: a whole chat completion, the chunks of a streamed one, and models."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field
from ulid import ULID

from vlibrary.api.http.errors import Problem
from vlibrary.api.http.openai_error import error_object
from vlibrary.domain.wire import TextPiece, WorkerInfo
from vlibrary.library.steer import Answer
from vlibrary.schemas.generate import SteeringOut
from vlibrary.schemas.vectors import NAMED_EXAMPLE, example

_ID = "chatcmpl-01K9Z4T0XJ4V6W8M2Q5R7S9A1B"
_DONE = format_sse_event(data_str="[DONE]")


class SteeredOut(SteeringOut):
    """VLibrary's extension of the answer: the vectors applied, or why there are none, and timings."""

    timings: dict[str, float] = Field(description="Seconds by stage, inside the worker")

    @classmethod
    def of_answer(cls, answer: Answer) -> SteeredOut:
        return cls(**dict(SteeringOut.of(answer)), timings=dict(answer.generation.timings))


class ChatUsage(BaseModel):
    """Tokens read and written. Text and image tokens alike count as prompt tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, answer: Answer) -> ChatUsage:
        read, written = answer.generation.prompt_tokens, answer.generation.completion_tokens
        return cls(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


class ChatMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """The one answer. finish_reason: "stop" or "length"."""

    index: Literal[0] = 0
    message: ChatMessage
    logprobs: None = None
    finish_reason: str


class ChatOut(BaseModel):
    """A chat completion."""

    model_config = example(
        {
            "id": _ID,
            "object": "chat.completion",
            "created": 1_795_000_000,
            "model": "vlibrary/bundled-llava",
            "system_fingerprint": "9c2e5d1f",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "lorp", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13},
            "vlibrary": {
                "applied": [NAMED_EXAMPLE | {"score": 0.97, "strength": 1.0}],
                "reason": None,
                "timings": {"total_s": 0.03},
            },
        }
    )

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Seconds since 1970")
    model: str
    system_fingerprint: str = Field(description="Fingerprint of the base model")
    choices: list[ChatChoice]
    usage: ChatUsage
    vlibrary: SteeredOut


class Completion:
    """One chat completion on its way: the same id, time and model in all that is sent of it.

    Implements vlibrary.api.http.streams.Script with OpenAI's chunks. usage: whether a stream tells the tokens used.
    """

    def __init__(self, model: WorkerInfo, *, usage: bool) -> None:
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{ULID()}",
            "created": int(time.time()),
            "model": model.model.model_id,
            "system_fingerprint": model.model.fingerprint,
        }
        self._usage = usage

    def whole(self, answer: Answer) -> ChatOut:
        """The answer at once."""
        generation = answer.generation
        choice = ChatChoice(message=ChatMessage(content=generation.text), finish_reason=generation.finish_reason)
        steered = SteeredOut.of_answer(answer)
        return ChatOut(**self._head, choices=[choice], usage=ChatUsage.of(answer), vlibrary=steered)

    def opening(self) -> bytes:
        return self._delta({"role": "assistant", "content": ""})

    def piece(self, piece: TextPiece) -> bytes:
        return self._delta({"content": piece.text})

    def ending(self, answer: Answer) -> bytes:
        """The reason for the end with what steered the answer, the usage if it was asked for, and [DONE]."""
        steered = SteeredOut.of_answer(answer).model_dump(mode="json")
        last = self._delta({}, finish_reason=answer.generation.finish_reason, vlibrary=steered)
        usage = self._chunk([], usage=ChatUsage.of(answer).model_dump()) if self._usage else b""
        return last + usage + _DONE

    def failure(self, problem: Problem) -> bytes:
        """The clients raise what `error` says; [DONE] would tell them that the answer is whole."""
        return format_sse_event(data_str=json.dumps(problem | {"error": error_object(problem)}))

    def _delta(self, delta: dict[str, str], *, finish_reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk([choice], **({"usage": None} if self._usage else {}), **more)

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        chunk = self._head | {"object": "chat.completion.chunk", "choices": choices} | more
        return format_sse_event(data_str=json.dumps(chunk))


_MODEL = {"id": "vlibrary/bundled-llava", "object": "model", "created": 0, "owned_by": "vlibrary"}


class ChatModelOut(BaseModel):
    """A base model that is served."""

    model_config = example(_MODEL)

    id: str
    object: Literal["model"] = "model"
    created: int = Field(default=0, description="0: not known")
    owned_by: Literal["vlibrary"] = "vlibrary"


class ChatModelsOut(BaseModel):
    """The base models that are served now."""

    model_config = example({"object": "list", "data": [_MODEL]})

    object: Literal["list"] = "list"
    data: list[ChatModelOut]
