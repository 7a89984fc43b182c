"""The request body of OpenAI's chat completions.

Unknown fields and unsupported options are rejected; no option is silently ignored unless its description says so.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from vlibrary.api.openai.decoding import SamplingIn
from vlibrary.schemas.examples import SAMPLE_IMAGE, examples
from vlibrary.schemas.fields import MAX_TEXT, NO_OTHER_END, JsonSchema, Logprobs, StrictIn, check_images, image_bytes
from vlibrary.schemas.generate import MAX_MODEL_NAME, MODEL_NAME, SteeredIn

MAX_MESSAGES = 256
MAX_ANSWERS = 128
_UNSUPPORTED = "not supported by this service; omit the field"


def _reject_value(value: Any) -> None:
    if value is not None:
        raise ValueError(_UNSUPPORTED)


def _reject_true(value: bool) -> bool:
    if value:
        raise ValueError(_UNSUPPORTED)
    return value


def _image_of_url(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith("data:"):
        raise ValueError("the service does not fetch images; send the image as a data URL: data:image/png;base64,...")
    return image_bytes(value)


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


# Declared for a clear error message; null is accepted, since some clients send every field.
Unsupported = Annotated[
    None, BeforeValidator(_reject_value), WithJsonSchema({"type": "null", "description": "Not supported"})
]
ImageUrl = Annotated[
    bytes, BeforeValidator(_image_of_url), WithJsonSchema({"type": "string", "description": "A data URL"})
]
# Not Literal: pydantic takes 0 for Literal[False], and true for Literal[1].
Off = Annotated[bool, AfterValidator(_reject_true), WithJsonSchema({"type": "boolean", "const": False})]
Text = Annotated[str, Field(max_length=MAX_TEXT)]


class TextPart(StrictIn):
    """Text of a message."""

    type: Literal["text"]
    text: Text


class ImageIn(StrictIn):
    """An image as a data URL; the model's processor chooses its resolution."""

    url: ImageUrl
    detail: Literal["auto"] | None = None


class ImagePart(StrictIn):
    """An image of a message; the images of a turn are put before its text."""

    type: Literal["image_url"]
    image_url: ImageIn


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
# A plain string counts as one part. A validator instead of a union: errors name the invalid part only.
Texts = Annotated[list[TextPart], BeforeValidator(_as_parts, json_schema_input_type=Text | list[TextPart])]
Parts = Annotated[list[Part], BeforeValidator(_as_parts, json_schema_input_type=Text | list[Part])]


class _Message(StrictIn):
    name: str | None = Field(default=None, description="Accepted and ignored")


class SystemMessage(_Message):
    """Instructions, put before the text of the next user message."""

    role: Literal["system", "developer"]
    content: Texts


class UserMessage(_Message):
    """A question, with images."""

    role: Literal["user"]
    content: Parts


class AssistantMessage(_Message):
    """An earlier answer; with the user message before it, it becomes a demonstration."""

    role: Literal["assistant"]
    content: Texts
    refusal: Unsupported = None
    audio: Unsupported = None
    tool_calls: Unsupported = None
    function_call: Unsupported = None
    annotations: list[Any] | None = Field(default=None, description="Accepted and ignored")


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class JsonSchemaFormat(StrictIn):
    """The schema of a `json_schema` format."""

    name: str = Field(max_length=64, description="Accepted and ignored")
    json_schema: JsonSchema = Field(alias="schema", description="The answer is a JSON document of this schema")
    description: str | None = Field(default=None, description="Accepted and ignored")
    strict: bool | None = Field(default=None, description="Accepted and ignored; the schema is always enforced")


class ResponseFormat(StrictIn):
    """The format of the answer: text, any JSON object, or a JSON document of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _check(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError("json_schema belongs to the type json_schema, and only to it")
        return self

    def to_schema(self) -> str | None:
        """Return the JSON schema of the answer, None for text."""
        if self.json_schema is not None:
            return json.dumps(self.json_schema.json_schema)
        return '{"type": "object"}' if self.type == "json_object" else None


class StreamOptions(StrictIn):
    """Options of a stream."""

    include_usage: bool | None = Field(default=None, description="Send the token usage in a final chunk")
    include_obfuscation: Off | None = None


_SAMPLE_URL = f"data:image/webp;base64,{SAMPLE_IMAGE}"
_QUESTION: dict[str, Any] = {
    "role": "user",
    "content": [{"type": "text", "text": "Which hue?"}, {"type": "image_url", "image_url": {"url": _SAMPLE_URL}}],
}


class ChatIn(SamplingIn):
    """A conversation; the last message is answered."""

    model_config = examples(
        {"messages": [_QUESTION], "max_tokens": 16, "temperature": 0},
        {
            "messages": [
                {"role": "system", "content": "Answer in one word."},
                _QUESTION,
                {"role": "assistant", "content": "lorp"},
                {"role": "user", "content": "And which shape?"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "vlibrary": {"steering": "off", "timeout_s": 30},
        },
    )

    model: str | None = Field(default=None, max_length=MAX_MODEL_NAME, description=MODEL_NAME)
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(default=None, ge=1, lt=2**63)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**63, description="Same as max_tokens")
    logprobs: bool | None = Field(
        default=None,
        description="Return the log-probability of every token of the answer: of the steered model's distribution, "
        "before temperature, penalties and masks",
    )
    top_logprobs: Logprobs | None = Field(
        default=None, description="Also return this many of the most likely tokens at each place; needs `logprobs`"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_ANSWERS, description="How many answers to sample; defaults to 1")
    vlibrary: SteeredIn = Field(default_factory=SteeredIn, description="How to steer the answer")

    user: str | None = Field(default=None, description="Accepted and ignored")
    metadata: dict[str, str] | None = Field(default=None, description="Accepted and ignored")
    store: bool | None = Field(default=None, description="Accepted and ignored; completions are not stored")
    safety_identifier: str | None = Field(default=None, description="Accepted and ignored")

    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    service_tier: Literal["auto", "default"] | None = None
    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    parallel_tool_calls: Unsupported = None
    prediction: Unsupported = None
    reasoning_effort: Unsupported = None
    tool_choice: Unsupported = None
    tools: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    @model_validator(mode="after")
    def _check(self) -> ChatIn:
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; send only one")
        if self.requested_schema is not None and (self.ignore_eos or self.min_tokens or self.stop_token_ids):
            raise ValueError(NO_OTHER_END)
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs requires logprobs to be true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options requires stream to be true")
        check_images(sum(isinstance(part, ImagePart) for message in self.messages for part in message.content))
        return self

    @property
    def requested_schema(self) -> str | None:
        """The JSON schema of the answer, None for text."""
        return None if self.response_format is None else self.response_format.to_schema()

    @property
    def requested_logprobs(self) -> int | None:
        """How many of the most likely tokens to report at each place; None reports nothing."""
        return self.top_logprobs or 0 if self.logprobs else None

    @property
    def requested_tokens(self) -> int | None:
        """The requested maximum length of the answer."""
        return self.max_completion_tokens or self.max_tokens
