"""The request body of OpenAI's responses."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from vlibrary.api.openai.decoding import SamplingIn
from vlibrary.api.openai.fields import IGNORED, Hint, Hints, Off, Text, Unsupported, find_ignored
from vlibrary.api.openai.messages import Message, SystemMessage, count_images
from vlibrary.api.openai.responses.items import Input
from vlibrary.domain.wire import Decoding
from vlibrary.schemas.examples import SAMPLE_IMAGE, examples
from vlibrary.schemas.fields import JsonSchema, Logprobs, StrictIn, check_images, contradiction
from vlibrary.schemas.generate import MAX_MODEL_NAME, MODEL_NAME, Steered, SteeredIn

_LOGPROBS = "message.output_text.logprobs"
_SAMPLE_URL = f"data:image/webp;base64,{SAMPLE_IMAGE}"


def _reject_tools(value: Any) -> Any:
    if value:
        raise ValueError("tools are not supported; omit them, or send an empty list")
    return value


def _reject_stored(value: Any) -> None:
    if value is not None:
        raise ValueError("the service stores no responses; send the earlier messages in `input`")


NoTools = Annotated[
    list[Any] | None,
    BeforeValidator(_reject_tools),
    WithJsonSchema({"anyOf": [{"type": "array", "maxItems": 0}, {"type": "null"}]}),
]
NotStored = Annotated[
    None, BeforeValidator(_reject_stored), WithJsonSchema({"type": "null", "description": "Not supported"})
]


class TextFormat(StrictIn):
    """The format of the answer: text, any JSON object, or a JSON document of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(default=None, max_length=64, description="Accepted; changes nothing")
    json_schema: JsonSchema | None = Field(
        default=None, alias="schema", description="With the type json_schema: the answer is a document of this schema"
    )
    description: str | None = Field(default=None, description="Accepted; changes nothing")
    strict: bool | None = Field(default=None, description="Accepted; the schema is always enforced")

    @model_validator(mode="after")
    def _check(self) -> TextFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise contradiction("schema", "the type json_schema requires schema, and other types do not allow it")
        return self

    def to_schema(self) -> str | None:
        """Return the JSON schema of the answer, None for text."""
        if self.json_schema is not None:
            return json.dumps(self.json_schema)
        return '{"type": "object"}' if self.type == "json_object" else None


class TextConfig(StrictIn):
    """How the answer is written."""

    format: TextFormat | None = None
    verbosity: Hint = None


class ResponseStreamOptions(StrictIn):
    """Options of a stream."""

    include_obfuscation: bool | None = Field(default=None, description="Accepted; the service pads no events")


class ResponsesIn(Hints):
    """A question, or a conversation whose last message is answered."""

    model_config = examples(
        {"input": "Which hue?", "max_output_tokens": 16},
        {
            "instructions": "Answer in one word.",
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_image", "image_url": _SAMPLE_URL, "detail": "auto"},
                        {"type": "input_text", "text": "Which hue?"},
                    ],
                },
                {
                    "type": "message",
                    "id": "msg_01K9Z4T0XJ4V6W8M2Q5R7S9A1B",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": "lorp", "annotations": []}],
                },
                {"role": "user", "content": "And which shape?"},
            ],
            "stream": True,
            "vlibrary": {"steering": "off", "timeout_s": 30},
        },
    )

    model: str | None = Field(default=None, max_length=MAX_MODEL_NAME, description=MODEL_NAME)
    input: Input = Field(description="The question, or a list of messages")
    instructions: Text | None = Field(default=None, description="Put before the text of the first user message")
    max_output_tokens: int | None = Field(default=None, ge=1, lt=2**63)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False, description="Defaults to 1")
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False, description="Defaults to 1")
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    text: TextConfig | None = None
    metadata: dict[str, str] | None = Field(default=None, description="Returned with the response")
    vlibrary: Steered = Field(default_factory=SteeredIn, description="How to steer the answer")

    store: Annotated[bool | None, IGNORED] = Field(
        default=None, description="Changes nothing: the service stores no responses"
    )
    previous_response_id: NotStored = None
    conversation: NotStored = None
    prompt: NotStored = None
    background: Off = None
    background_options: Hint = None
    access_programs: Hint = None
    context_management: Hint = None
    image: Hint = None
    moderation: Unsupported = None
    tools: NoTools = None
    tool_choice: Literal["auto", "none"] | None = None
    max_tool_calls: Hint = None
    truncation: Literal["auto", "disabled"] | None = Field(
        default=None, description="Changes nothing: a conversation that exceeds the context is refused"
    )
    reasoning: Hint = None
    include: list[str] | None = Field(
        default=None,
        description=f"`{_LOGPROBS}` returns the log-probabilities of the answer's tokens; other values change nothing",
    )
    top_logprobs: Logprobs | None = Field(
        default=None, description="Return the log-probabilities, and this many of the most likely tokens at each place"
    )

    @model_validator(mode="after")
    def _check(self) -> ResponsesIn:
        check_images(count_images(self.input), "input")
        return self

    @property
    def ignored(self) -> list[str]:
        """The names of the hints that the service ignores."""
        others = set(self.include or ()) - {_LOGPROBS}
        return [*find_ignored(self), *(["include"] if others else [])]

    def to_messages(self) -> list[Message]:
        """Return the conversation as messages of a chat."""
        if not self.instructions:
            return list(self.input)
        return [SystemMessage.model_validate({"role": "system", "content": self.instructions}), *self.input]

    def to_decoding(self) -> Decoding:
        """Return the parameters for the worker."""
        scored = self.top_logprobs is not None or _LOGPROBS in (self.include or ())
        chosen = None if self.text is None else self.text.format
        return SamplingIn(temperature=self.temperature, top_p=self.top_p).to_decoding(
            self.max_output_tokens,
            logprobs=(self.top_logprobs or 0) if scored else None,
            json_schema=None if chosen is None else chosen.to_schema(),
        )
