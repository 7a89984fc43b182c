"""The messages of OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vlibrary.api.openai.fields import IGNORED, EmptyList, Hint, ImageUrl, Text, Unsupported, wrong_type
from vlibrary.schemas.fields import StrictIn

_PART_HELP = {
    "input_file": "files are not supported; send their text as `input_text` or their pages as `input_image`",
    "input_audio": "audio is not supported; send its transcript as text",
}


def _check_part(part: Any) -> Any:
    """Raise ValueError for a part that is neither text nor an image."""
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind in _PART_HELP:
        raise ValueError(_PART_HELP[kind])
    return part


def _as_parts(value: Any) -> Any:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        raise wrong_type("a string or a list of parts")
    return value


def _as_parts_or_none(value: Any) -> Any:
    return [] if value is None else _as_parts(value)


def _as_image(value: Any) -> Any:
    if isinstance(value, str):
        return {"url": value}
    if not isinstance(value, dict | ImageIn):
        raise wrong_type("a data URL, or an object with the field url")
    return value


class TextPart(StrictIn):
    """Text of a message."""

    type: Literal["text", "input_text", "output_text"]
    text: Text
    annotations: Hint = None
    cache_control: Hint = None
    logprobs: Hint = None
    prompt_cache_breakpoint: Hint = None


class RefusalPart(StrictIn):
    """What an earlier answer said instead of its text."""

    type: Literal["refusal"]
    refusal: Text

    @property
    def text(self) -> str:
        return self.refusal


class ImageIn(StrictIn):
    """An image as a data URL; the model's processor chooses its resolution."""

    url: ImageUrl
    detail: Annotated[Literal["auto", "low", "high", "original"] | None, IGNORED] = None


class ImagePart(StrictIn):
    """An image of a message; the images of a turn are put before its text."""

    type: Literal["image_url", "input_image"]
    image_url: Annotated[ImageIn, BeforeValidator(_as_image, json_schema_input_type=ImageIn | str)]
    detail: Annotated[Literal["auto", "low", "high", "original"] | None, IGNORED] = None
    file_id: Unsupported = None
    uuid: Hint = None
    cache_control: Hint = None
    prompt_cache_breakpoint: Hint = None


Part = Annotated[Annotated[TextPart | ImagePart, Field(discriminator="type")], BeforeValidator(_check_part)]
AnswerPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
# A plain string counts as one part. A validator instead of a union: errors name the invalid part only.
Texts = Annotated[list[TextPart], BeforeValidator(_as_parts, json_schema_input_type=Text | list[TextPart])]
Parts = Annotated[list[Part], BeforeValidator(_as_parts, json_schema_input_type=Text | list[Part])]
AnswerParts = Annotated[
    list[AnswerPart], BeforeValidator(_as_parts_or_none, json_schema_input_type=Text | list[AnswerPart] | None)
]


class _Message(StrictIn):
    name: Annotated[str | None, IGNORED] = None
    id: Hint = None
    cache_control: Hint = None
    provider_specific_fields: Hint = None


class SystemMessage(_Message):
    """Instructions, put before the text of the next user message."""

    role: Literal["system", "developer"]
    content: Texts

    @property
    def text(self) -> str:
        """The text of all parts."""
        return "\n".join(part.text for part in self.content)


class UserMessage(_Message):
    """A question, with images."""

    role: Literal["user"]
    content: Parts

    @property
    def text(self) -> str:
        """The text of all parts."""
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> list[bytes]:
        """The images of all parts."""
        return [part.image_url.url for part in self.content if isinstance(part, ImagePart)]


class AssistantMessage(_Message):
    """An earlier answer; with the user message before it, it becomes a demonstration."""

    role: Literal["assistant"]
    content: AnswerParts = Field(default_factory=list)
    refusal: Text | None = Field(default=None, description="What the answer said instead of its text")
    audio: Unsupported = None
    tool_calls: EmptyList = None
    function_call: Unsupported = None
    annotations: Hint = None
    reasoning: Hint = None
    reasoning_content: Hint = None
    reasoning_details: Hint = None
    thinking_blocks: Hint = None

    @property
    def text(self) -> str:
        """The text of all parts, and the refusal."""
        return "\n".join([*(part.text for part in self.content), *([self.refusal] if self.refusal else [])])


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


def count_images(messages: Sequence[Message]) -> int:
    """Return how many images the messages have."""
    return sum(len(one.images) for one in messages if isinstance(one, UserMessage))
