"""The body of a response, and the events of its stream."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Literal

from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field
from ulid import ULID

from vlibrary.api.http.problems import Problem, openai_error
from vlibrary.api.openai.answers import STEERED_EXAMPLE, SteeredOut
from vlibrary.api.openai.responses.request import ResponsesIn, TextFormat
from vlibrary.domain.wire import TextPiece
from vlibrary.library.model_names import NamedModel
from vlibrary.library.steer import Answer
from vlibrary.schemas.examples import examples
from vlibrary.schemas.logprobs import LogprobOut

_ULID = "01K9Z4T0XJ4V6W8M2Q5R7S9A1B"
_EXAMPLE: dict[str, Any] = {
    "id": f"resp_{_ULID}",
    "object": "response",
    "created_at": 1_795_000_000,
    "completed_at": 1_795_000_000,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": 16,
    "metadata": {},
    "model": "vlibrary/bundled-llava",
    "output": [
        {
            "id": f"msg_{_ULID}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "lorp", "annotations": [], "logprobs": []}],
        }
    ],
    "parallel_tool_calls": False,
    "previous_response_id": None,
    "store": False,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "none",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "usage": {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 13,
    },
    "vlibrary": STEERED_EXAMPLE,
}

_KINDS = (
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
    "response.incomplete",
    "error",
)
EVENT_SCHEMA = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": list(_KINDS)},
        "data": {"type": "string", "description": "JSON with `type`, `sequence_number` and the event's fields"},
    },
}
STREAM_EXAMPLE = f"""\
event: response.output_text.delta
data: {{"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_{_ULID}","output_index":0,\
"content_index":0,"delta":"lorp","logprobs":[]}}

"""


class OutputTextOut(BaseModel):
    """The text of the answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list, description="Always empty")
    logprobs: list[LogprobOut] = Field(default_factory=list, description="Of the tokens, if they are requested")


class OutputMessageOut(BaseModel):
    """The model's message."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputTextOut]


class InputTokensOut(BaseModel):
    """Input tokens by kind."""

    cached_tokens: Literal[0] = 0
    cache_write_tokens: Literal[0] = 0


class OutputTokensOut(BaseModel):
    """Output tokens by kind."""

    reasoning_tokens: Literal[0] = 0


class ResponsesUsage(BaseModel):
    """Token counts; image tokens count as input tokens."""

    input_tokens: int
    input_tokens_details: InputTokensOut = InputTokensOut()
    output_tokens: int
    output_tokens_details: OutputTokensOut = OutputTokensOut()
    total_tokens: int

    @classmethod
    def of(cls, answer: Answer) -> ResponsesUsage:
        read, written = answer.generation.prompt_tokens, answer.generation.completion_tokens
        return cls(input_tokens=read, output_tokens=written, total_tokens=read + written)


class IncompleteOut(BaseModel):
    """Why the response is incomplete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseOut(BaseModel):
    """A response. Fields that are not described have their meaning in OpenAI's API."""

    model_config = examples(_EXAMPLE)

    id: str
    object: Literal["response"] = "response"
    created_at: int = Field(description="Unix time in seconds")
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete"] = "in_progress"
    error: None = None
    incomplete_details: IncompleteOut | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputMessageOut] = Field(default_factory=list)
    parallel_tool_calls: Literal[False] = False
    previous_response_id: None = None
    store: Literal[False] = Field(default=False, description="The service stores no responses")
    temperature: float
    text: dict[str, Any] = Field(description="The format of the answer, as requested")
    tool_choice: Literal["none"] = "none"
    tools: list[Any] = Field(default_factory=list, description="Always empty")
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponsesUsage | None = None
    vlibrary: SteeredOut | None = Field(default=None, description="null until the answer is complete")


class Response:
    """Formats one answer as a response or as the events of its stream, with the same ids, time and model.

    Implements vlibrary.api.http.streams.EventFormat.
    """

    def __init__(self, body: ResponsesIn, model: NamedModel, path: str) -> None:
        """path: of the request."""
        identity = ULID()
        chosen = (body.text and body.text.format) or TextFormat(type="text")
        self._path = path
        self._ignored = body.ignored
        self._message_id = f"msg_{identity}"
        self._begun = ResponseOut(
            id=f"resp_{identity}",
            created_at=int(time.time()),
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            model=model.name,
            text={"format": chosen.model_dump(by_alias=True, exclude_none=True)},
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
        )
        self._sent = 0

    def whole(self, answer: Answer) -> ResponseOut:
        """Return the response."""
        cut = answer.generation.finish_reason == "length"
        return self._begun.model_copy(
            update={
                "completed_at": None if cut else int(time.time()),
                "status": "incomplete" if cut else "completed",
                "incomplete_details": IncompleteOut() if cut else None,
                "output": [self._message(answer, "incomplete" if cut else "completed")],
                "usage": ResponsesUsage.of(answer),
                "vlibrary": SteeredOut.of_answers([answer], self._ignored),
            }
        )

    def opening(self) -> bytes:
        begun = self._begun.model_dump(mode="json")
        item = self._message(None, "in_progress").model_dump(mode="json")
        return b"".join(
            (
                self._event("response.created", response=begun),
                self._event("response.in_progress", response=begun),
                self._event("response.output_item.added", output_index=0, item=item),
                self._content_event("response.content_part.added", part=OutputTextOut(text="").model_dump()),
            )
        )

    def piece(self, piece: TextPiece, _index: int) -> bytes:
        scored = [LogprobOut.of(one).model_dump(mode="json") for one in piece.logprobs]
        return self._content_event("response.output_text.delta", delta=piece.text, logprobs=scored)

    def answer_end(self, answer: Answer, _index: int) -> bytes:
        whole = self.whole(answer)
        (item,) = whole.output
        part = item.content[0].model_dump(mode="json")
        return b"".join(
            (
                self._content_event("response.output_text.done", text=part["text"], logprobs=part["logprobs"]),
                self._content_event("response.content_part.done", part=part),
                self._event("response.output_item.done", output_index=0, item=item.model_dump(mode="json")),
                self._event(f"response.{whole.status}", response=whole.model_dump(mode="json")),
            )
        )

    def ending(self, _answers: Sequence[Answer]) -> bytes:
        return b""

    def failure(self, problem: Problem) -> bytes:
        """Return an `error` event. Clients read its fields or, as in other streams of OpenAI, its `error` object."""
        error = openai_error(problem, self._path)
        documented = {name: error[name] for name in ("code", "message", "param")}
        return self._event("error", **documented, error=error)

    def _message(
        self, answer: Answer | None, status: Literal["in_progress", "completed", "incomplete"]
    ) -> OutputMessageOut:
        content: list[OutputTextOut] = []
        if answer is not None:
            scored = LogprobOut.list_of(answer.generation.logprobs) or []
            content = [OutputTextOut(text=answer.generation.text, logprobs=scored)]
        return OutputMessageOut(id=self._message_id, status=status, content=content)

    def _content_event(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._message_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._sent} | fields
        self._sent += 1
        return format_sse_event(event=kind, data_str=json.dumps(data))
