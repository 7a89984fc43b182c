"""The request of OpenAI's chat completions, as far as this service can do what it says.

A field that is not listed, or asks for what the service has not, is refused: an answer never leaves out silently what
was asked for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from vlibrary.schemas.fields import MAX_TEXT, StopText, StrictIn, check_images, image_bytes
from vlibrary.schemas.generate import MAX_NEW_TOKENS, MAX_STOPS, SteeredIn
from vlibrary.schemas.samples import SAMPLE_IMAGE

MAX_MESSAGES = 256
_NOT_OFFERED = "this service does not offer it; leave the field out"


def _refuse(value: Any) -> None:
    if value is not None:
        raise ValueError(_NOT_OFFERED)


def _refuse_true(value: bool) -> bool:
    if value:
        raise ValueError(_NOT_OFFERED)
    return value


def _image_of_url(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith("data:"):
        raise ValueError(
            "the service fetches no pictures; send the picture itself as a data URL: data:image/png;base64,..."
        )
    return image_bytes(value)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


# Declared so that they are refused in plain words; null is let pass, since some clients send every field.
NotOffered = Annotated[None, BeforeValidator(_refuse), WithJsonSchema({"type": "null", "description": "Not offered"})]
ImageUrl = Annotated[
    bytes, BeforeValidator(_image_of_url), WithJsonSchema({"type": "string", "description": "A data URL"})
]
# Not Literal: to pydantic a literal false is 0 too, and a literal 1 is true.
Off = Annotated[bool, AfterValidator(_refuse_true), WithJsonSchema({"type": "boolean", "const": False})]
One = Annotated[int, Field(ge=1, le=1)]
Zero = Annotated[float, Field(ge=0, le=0)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
StopTexts = Annotated[list[StopText], Field(max_length=MAX_STOPS)]
Stops = Annotated[StopTexts | None, BeforeValidator(_listed, json_schema_input_type=StopText | StopTexts | None)]


class TextPart(StrictIn):
    """A piece of a message's text."""

    type: Literal["text"]
    text: Text


class ImageIn(StrictIn):
    """A picture as a data URL; the model's own processor chooses its resolution."""

    url: ImageUrl
    detail: Literal["auto"] | None = None


class ImagePart(StrictIn):
    """A picture of a message; the pictures of a turn go before its text."""

    type: Literal["image_url"]
    image_url: ImageIn


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
# A plain text counts as one part; said so to pydantic, an error names the part that is wrong and not both readings.
Texts = Annotated[list[TextPart], BeforeValidator(_as_parts, json_schema_input_type=Text | list[TextPart])]
Parts = Annotated[list[Part], BeforeValidator(_as_parts, json_schema_input_type=Text | list[Part])]


class _Message(StrictIn):
    name: str | None = Field(default=None, description="Accepted and ignored")


class SystemMessage(_Message):
    """Instructions: they go before the next user message's text."""

    role: Literal["system", "developer"]
    content: Texts


class UserMessage(_Message):
    """What the user asks, with pictures."""

    role: Literal["user"]
    content: Parts


class AssistantMessage(_Message):
    """An earlier answer: with the user's message before it, it becomes a demonstration."""

    role: Literal["assistant"]
    content: Texts
    refusal: NotOffered = None
    audio: NotOffered = None
    tool_calls: NotOffered = None
    function_call: NotOffered = None
    annotations: list[Any] | None = Field(default=None, description="Accepted and ignored")


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class ResponseFormat(StrictIn):
    """Answers are plain text."""

    type: Literal["text"]


class StreamOptions(StrictIn):
    """What a stream carries beside the answer."""

    include_usage: bool | None = Field(default=None, description="Send the tokens used in a chunk before the end")
    include_obfuscation: Off | None = None


_SAMPLE_URL = f"data:image/webp;base64,{SAMPLE_IMAGE}"
_ASKED: dict[str, Any] = {
    "role": "user",
    "content": [{"type": "text", "text": "Which hue?"}, {"type": "image_url", "image_url": {"url": _SAMPLE_URL}}],
}


class ChatIn(StrictIn):
    """A conversation whose last message is to be answered."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"messages": [_ASKED], "max_tokens": 16, "temperature": 0},
                {
                    "messages": [
                        {"role": "system", "content": "Answer in one word."},
                        _ASKED,
                        {"role": "assistant", "content": "lorp"},
                        {"role": "user", "content": "And which shape?"},
                    ],
                    "stream": True,
                    "stream_options": {"include_usage": True},
                    "vlibrary": {"steering": "off", "timeout_s": 30},
                },
            ]
        }
    )

    model: str | None = Field(
        default=None,
        max_length=512,
        description="Id of a base model that is served, see GET /v1/models; the first of them when left out",
    )
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_NEW_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_NEW_TOKENS, description="Same as max_tokens")
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False, description="1 when left out")
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False, description="1 when left out")
    stop: Stops = Field(default=None, description="The answer ends before the first of these texts")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="Random when left out")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: One | None = None
    vlibrary: SteeredIn = Field(default_factory=SteeredIn, description="How to steer the answer")

    user: str | None = Field(default=None, description="Accepted and ignored")
    metadata: dict[str, str] | None = Field(default=None, description="Accepted and ignored")
    store: bool | None = Field(default=None, description="Accepted and ignored: nothing is stored")
    safety_identifier: str | None = Field(default=None, description="Accepted and ignored")

    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    logprobs: Off | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    service_tier: Literal["auto", "default"] | None = None
    audio: NotOffered = None
    function_call: NotOffered = None
    functions: NotOffered = None
    logit_bias: NotOffered = None
    parallel_tool_calls: NotOffered = None
    prediction: NotOffered = None
    reasoning_effort: NotOffered = None
    tool_choice: NotOffered = None
    tools: NotOffered = None
    top_logprobs: NotOffered = None
    verbosity: NotOffered = None
    web_search_options: NotOffered = None

    @model_validator(mode="after")
    def _check(self) -> ChatIn:
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options are for a stream; set stream to true or leave them out")
        check_images(sum(isinstance(part, ImagePart) for message in self.messages for part in message.content))
        return self

    @property
    def most_tokens(self) -> int | None:
        """The longest answer that was asked for, in tokens."""
        return self.max_completion_tokens or self.max_tokens
