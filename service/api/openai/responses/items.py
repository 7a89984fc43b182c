"""The input of a response: a list of items, of which the service reads messages with text and images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vlibrary.api.openai.fields import Hint, Text, wrong_type
from vlibrary.api.openai.messages import AssistantMessage, SystemMessage, UserMessage
from vlibrary.schemas.fields import StrictIn

MAX_ITEMS = 512

_ITEM_HELP = {
    "item_reference": "the service stores no items; send the item itself",
    "reasoning": "reasoning items are not supported; send only the messages",
}


def _check_item(item: Any) -> Any:
    """Raise ValueError for an item that is no message."""
    kind = (
        item.get("type") or ("message" if "role" in item else "item_reference") if isinstance(item, Mapping) else None
    )
    if isinstance(kind, str) and kind != "message":
        raise ValueError(_ITEM_HELP.get(kind) or f"items of type {kind!r:.80} are not supported; send only messages")
    return item


def _as_items(value: Any) -> Any:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise wrong_type("a string or a list of messages")
    return value


class _Item(StrictIn):
    type: Literal["message"] = "message"
    status: Literal["in_progress", "completed", "incomplete"] | None = Field(
        default=None, description="Accepted and ignored"
    )
    phase: Hint = None


class UserItem(_Item, UserMessage):
    """A question, with images."""


class SystemItem(_Item, SystemMessage):
    """Instructions, put before the text of the next user message."""


class AssistantItem(_Item, AssistantMessage):
    """An earlier answer, such as an item of a response's `output`."""


Item = Annotated[
    Annotated[UserItem | SystemItem | AssistantItem, Field(discriminator="role")], BeforeValidator(_check_item)
]
Items = Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS)]
Input = Annotated[Items, BeforeValidator(_as_items, json_schema_input_type=Text | Items)]
