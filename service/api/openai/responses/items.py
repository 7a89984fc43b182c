"""The input of a response: a list of items, of which the service reads messages with text and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vlibrary.api.openai.fields import Hint, ImageUrl, Text, Unsupported, wrong_type
from vlibrary.api.openai.messages import (
    AssistantMessage,
    ImageIn,
    ImagePart,
    Message,
    RefusalPart,
    SystemMessage,
    TextPart,
    UserMessage,
)
from vlibrary.schemas.fields import StrictIn

MAX_ITEMS = 512

_ITEM_HELP = {
    "item_reference": "the service stores no items; send the item itself",
    "reasoning": "reasoning items are not supported; send only the messages",
}
_PART_HELP = {
    "input_file": "files are not supported; send their text as `input_text` or their pages as `input_image`",
    "input_audio": "audio is not supported; send its transcript as `input_text`",
}


def _check_item(item: Any) -> Any:
    """Raise ValueError for an item that is no message."""
    kind = (
        item.get("type") or ("message" if "role" in item else "item_reference") if isinstance(item, Mapping) else None
    )
    if isinstance(kind, str) and kind != "message":
        raise ValueError(_ITEM_HELP.get(kind) or f"items of type {kind!r:.80} are not supported; send only messages")
    return item


def _check_part(part: Any) -> Any:
    """Raise ValueError for a part that is neither text nor an image."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(kind, str) and kind in _PART_HELP:
        raise ValueError(_PART_HELP[kind])
    return part


def _as_input(value: Any) -> Any:
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


def _as_output(value: Any) -> Any:
    return [{"type": "output_text", "text": value}] if isinstance(value, str) else value


def _as_items(value: Any) -> Any:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise wrong_type("a string or a list of messages")
    return value


class InputText(StrictIn):
    """Text of a message."""

    type: Literal["input_text"]
    text: Text
    prompt_cache_breakpoint: Hint = None


class InputImage(StrictIn):
    """An image of a message as a data URL; the images of a turn are put before its text."""

    type: Literal["input_image"]
    image_url: ImageUrl
    detail: Literal["auto", "low", "high", "original"] | None = Field(
        default=None, description="Accepted and ignored; the model's processor chooses the resolution"
    )
    file_id: Unsupported = None
    prompt_cache_breakpoint: Hint = None


class OutputText(StrictIn):
    """Text of an earlier answer."""

    type: Literal["output_text", "input_text"]
    text: Text
    annotations: Hint = None
    logprobs: Hint = None


InputPart = Annotated[Annotated[InputText | InputImage, Field(discriminator="type")], BeforeValidator(_check_part)]
# A string counts as one part. Validators instead of unions: errors name the invalid part only.
InputParts = Annotated[list[InputPart], BeforeValidator(_as_input, json_schema_input_type=Text | list[InputPart])]
InputTexts = Annotated[list[InputText], BeforeValidator(_as_input, json_schema_input_type=Text | list[InputText])]
OutputPart = Annotated[OutputText | RefusalPart, Field(discriminator="type")]
OutputParts = Annotated[list[OutputPart], BeforeValidator(_as_output, json_schema_input_type=Text | list[OutputPart])]


class _Item(StrictIn):
    type: Literal["message"] = "message"
    id: Hint = None
    status: Literal["in_progress", "completed", "incomplete"] | None = Field(
        default=None, description="Accepted and ignored"
    )
    phase: Hint = None


class UserItem(_Item):
    """A question, with images."""

    role: Literal["user"]
    content: InputParts

    def to_message(self) -> Message:
        """Return the same message as one of a chat."""
        return UserMessage(role="user", content=[_to_chat_part(part) for part in self.content])


class SystemItem(_Item):
    """Instructions, put before the text of the next user message."""

    role: Literal["system", "developer"]
    content: InputTexts

    def to_message(self) -> Message:
        """Return the same message as one of a chat."""
        return SystemMessage(role=self.role, content=[TextPart(type="text", text=part.text) for part in self.content])


class AssistantItem(_Item):
    """An earlier answer, such as an item of a response's `output`."""

    role: Literal["assistant"]
    content: OutputParts

    def to_message(self) -> Message:
        """Return the same message as one of a chat."""
        return AssistantMessage(
            role="assistant", content=[TextPart(type="text", text=part.text) for part in self.content]
        )


Item = Annotated[
    Annotated[UserItem | SystemItem | AssistantItem, Field(discriminator="role")], BeforeValidator(_check_item)
]
Items = Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS)]
Input = Annotated[Items, BeforeValidator(_as_items, json_schema_input_type=Text | Items)]


def to_messages(instructions: str | None, items: Sequence[UserItem | SystemItem | AssistantItem]) -> list[Message]:
    """Return the input as messages of a chat, the instructions first."""
    first: list[Message] = []
    if instructions:
        first = [SystemMessage(role="system", content=[TextPart(type="text", text=instructions)])]
    return [*first, *(item.to_message() for item in items)]


def count_images(items: Sequence[UserItem | SystemItem | AssistantItem]) -> int:
    """Return how many images the items have."""
    return sum(isinstance(part, InputImage) for item in items for part in item.content)


def _to_chat_part(part: InputText | InputImage) -> TextPart | ImagePart:
    if isinstance(part, InputText):
        return TextPart(type="text", text=part.text)
    # Without validation, since the image is decoded already.
    return ImagePart(type="image_url", image_url=ImageIn.model_construct(url=part.image_url))
