"""OpenAI's chat completions: whole, and as the chunks of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Literal

from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field
from ulid import ULID

from vlibrary.api.http.problems import Problem, openai_error
from vlibrary.api.openai.chat import ChatIn
from vlibrary.api.openai.tools import CallText, ToolCallOut
from vlibrary.domain.wire import ScoredToken, TextPiece
from vlibrary.library.model_names import NamedModel
from vlibrary.library.steer import Answer
from vlibrary.schemas.examples import NAMED_EXAMPLE, examples
from vlibrary.schemas.generate import TIMINGS, SteeringOut
from vlibrary.schemas.logprobs import LogprobOut
from vlibrary.schemas.vectors import EMBEDDED_TEXT_EXAMPLE

_ID = "chatcmpl-01K9Z4T0XJ4V6W8M2Q5R7S9A1B"
STEERED_EXAMPLE: dict[str, Any] = {
    "applied": [NAMED_EXAMPLE | {"score": 0.97, "strength": 1.0}],
    "reason": None,
    "query_text": EMBEDDED_TEXT_EXAMPLE,
    "base_model": "vlibrary/bundled-llava",
    "timings": {"total_s": 0.03},
    "ignored": [],
}
EVENT_SCHEMA = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "description": "A chunk or an error as JSON, or [DONE]"}},
}
STREAM_EXAMPLE = f"""\
data: {{"id":"{_ID}","object":"chat.completion.chunk","created":1795000000,\
"model":"vlibrary/bundled-llava","system_fingerprint":"9c2e5d1f","choices":[{{"index":0,"delta":{{"content":"lorp"}},\
"logprobs":null,"finish_reason":null}}]}}

data: [DONE]

"""
DONE = format_sse_event(data_str="[DONE]")


def format_failure(problem: Problem, path: str) -> bytes:
    """Return an error event for a stream that ends with [DONE] when it is complete. path: of the request."""
    return format_sse_event(data_str=json.dumps(problem | {"error": openai_error(problem, path)}))


class SteeredOut(SteeringOut):
    """VLibrary's extension of the answer: the vectors applied, or why there are none, and timings."""

    base_model: str = Field(description="Id of the base model")
    timings: dict[str, float] = Field(description=TIMINGS)
    ignored: list[str] = Field(description="Fields of the request that changed nothing, without list indexes")

    @classmethod
    def of_answers(cls, answers: Sequence[Answer], ignored: list[str]) -> SteeredOut:
        """Return the steering of the answers to one prompt, with the timings of the answer that took longest."""
        slowest = max((one.generation.timings for one in answers), key=lambda one: one.get("total_s", 0.0))
        one = answers[0]
        return cls(**dict(SteeringOut.of(one)), base_model=one.model_id, timings=dict(slowest), ignored=ignored)


class ChatUsage(BaseModel):
    """Token counts; image tokens count as prompt tokens. A prompt with several answers counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> ChatUsage:
        """Return the usage of the answers to one prompt."""
        prompt = answers[0].generation.prompt_tokens
        completion = sum(one.generation.completion_tokens for one in answers)
        return cls.of_counts(prompt, completion)

    @classmethod
    def of_counts(cls, prompt: int, completion: int) -> ChatUsage:
        return cls(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


class ChatMessage(BaseModel):
    """The model's message."""

    role: Literal["assistant"] = "assistant"
    content: str | None = Field(description="null if the answer is a tool call")
    refusal: None = None
    tool_calls: list[ToolCallOut] | None = Field(default=None, description="The call, if the request forced one")


class ChatLogprobs(BaseModel):
    """Log-probabilities of the tokens of the message."""

    content: list[LogprobOut] = Field(description="One entry per generated token, without an end token")
    refusal: None = None

    @classmethod
    def of(cls, scored: Sequence[ScoredToken] | None) -> ChatLogprobs | None:
        """Return the log-probabilities, or None if they were not requested."""
        return None if scored is None else cls(content=[LogprobOut.of(one) for one in scored])


class ChatChoice(BaseModel):
    """One answer; there are `n` of them."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = Field(default=None, description="null if not requested")
    finish_reason: str = Field(description="`stop`, `length`, or `tool_calls`")


class ChatOut(BaseModel):
    """A chat completion."""

    model_config = examples(
        {
            "id": _ID,
            "object": "chat.completion",
            "created": 1_795_000_000,
            "model": "vlibrary/bundled-llava",
            "system_fingerprint": "9c2e5d1f",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "lorp", "refusal": None, "tool_calls": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13},
            "vlibrary": STEERED_EXAMPLE,
        }
    )

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Unix time in seconds")
    model: str = Field(description="The model as named in the request; the base model's id if it named none")
    system_fingerprint: str = Field(description="Fingerprint of the base model")
    choices: list[ChatChoice]
    usage: ChatUsage
    vlibrary: SteeredOut


class Completion:
    """Formats answers to one conversation as a chat completion or as its chunks, all with the same id, time and model.

    Implements vlibrary.api.http.streams.EventFormat. path: of the request.
    """

    def __init__(self, body: ChatIn, model: NamedModel, path: str) -> None:
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{ULID()}",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": model.base.model.fingerprint,
        }
        self._path = path
        self._body = body
        self._count = body.n or 1
        self._scored = [0] * self._count  # log-probabilities sent so far, of each answer
        self._calls = [CallText(body.forced) for _ in range(self._count)] if body.forced else None

    def whole(self, answers: Sequence[Answer]) -> ChatOut:
        """Return the completion."""
        choices = [
            ChatChoice(
                index=index,
                message=self._message(one, index),
                logprobs=ChatLogprobs.of(one.generation.logprobs),
                finish_reason=self._finish_reason(one, index),
            )
            for index, one in enumerate(answers)
        ]
        usage, steered = ChatUsage.of(answers), SteeredOut.of_answers(answers, self._body.ignored)
        return ChatOut(**self._head, choices=choices, usage=usage, vlibrary=steered)

    def opening(self) -> bytes:
        content = None if self._calls else ""
        return b"".join(self._delta({"role": "assistant", "content": content}, index) for index in range(self._count))

    def piece(self, piece: TextPiece, index: int) -> bytes:
        self._scored[index] += len(piece.logprobs)
        more: dict[str, Any] = {}
        if self._body.stream_options and self._body.stream_options.counts_every_chunk:
            more["usage"] = ChatUsage.of_counts(piece.prompt_tokens, piece.tokens).model_dump()
        delta = self._calls[index].read(piece.text) if self._calls else {"content": piece.text}
        return self._delta(delta, index, scored=piece.logprobs, **more)

    def answer_end(self, answer: Answer, index: int) -> bytes:
        """Return the chunk with finish_reason and steering.

        Before it come the end of a call, and the log-probabilities of tokens without a text of their own, such as those
        of a stop text.
        """
        unsent = (answer.generation.logprobs or ())[self._scored[index] :]
        rest = self._calls[index].read("", last=True) if self._calls else {}
        before = self._delta(rest or {"content": ""}, index, scored=unsent) if rest or unsent else b""
        steered = SteeredOut.of_answers([answer], self._body.ignored).model_dump(mode="json")
        return before + self._delta({}, index, finish_reason=self._finish_reason(answer, index), vlibrary=steered)

    def ending(self, answers: Sequence[Answer]) -> bytes:
        """Return the usage if requested, and [DONE]."""
        return (self._chunk([], usage=ChatUsage.of(answers).model_dump()) if self._body.include_usage else b"") + DONE

    def failure(self, problem: Problem) -> bytes:
        """Return an error event; without [DONE], which would mark the answer as complete."""
        return format_failure(problem, self._path)

    def _message(self, answer: Answer, index: int) -> ChatMessage:
        text = answer.generation.text
        return ChatMessage.model_validate(self._calls[index].whole(text) if self._calls else {"content": text})

    def _finish_reason(self, answer: Answer, index: int) -> str:
        reason = answer.generation.finish_reason
        return "tool_calls" if reason == "stop" and self._calls and self._calls[index].is_call else reason

    def _delta(
        self,
        delta: dict[str, Any],
        index: int,
        *,
        scored: Sequence[ScoredToken] = (),
        finish_reason: str | None = None,
        **more: Any,
    ) -> bytes:
        found = ChatLogprobs.of(scored or None)
        logprobs = None if found is None else found.model_dump()
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._chunk([choice], **({"usage": None} if self._body.include_usage else {}) | more)

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        chunk = self._head | {"object": "chat.completion.chunk", "choices": choices} | more
        return format_sse_event(data_str=json.dumps(chunk))
