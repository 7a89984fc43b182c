"""The items of a response become the same prompt as the messages of a chat, whatever form they are in."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vlibrary.api.openai.chat import ChatIn
from vlibrary.api.openai.conversation import read_conversation
from vlibrary.api.openai.messages import Message
from vlibrary.api.openai.responses.request import ResponsesIn
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.query import Query
from vlibrary.domain.wire import Prompt

WORDS = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=12)
# (role, parts): a part is a text, or the bytes of an image.
PARTS = st.lists(WORDS | st.binary(min_size=1, max_size=9), min_size=1, max_size=4)
TURNS = st.lists(
    st.tuples(st.sampled_from(["user", "system", "developer"]), PARTS) | st.tuples(st.just("assistant"), PARTS),
    max_size=6,
)
Turn = tuple[str, list[str | bytes]]


def url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def texts(turn: Turn) -> list[str]:
    """Return the parts that a message of this role can have."""
    return [part for part in turn[1] if isinstance(part, str)] or ["nothing"]


def chat_message(turn: Turn) -> dict[str, Any]:
    role, parts = turn
    if role != "user":
        return {"role": role, "content": [{"type": "text", "text": text} for text in texts(turn)]}
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": url(part)}}
        for part in parts
    ]
    return {"role": role, "content": content}


@st.composite
def item(draw: st.DrawFn, turn: Turn) -> dict[str, Any]:
    """Return the turn as an item in one of the forms that clients send."""
    role, parts = turn
    kind = "output_text" if role == "assistant" else "input_text"
    found: dict[str, Any] = {"role": role}
    if role == "user":
        found["content"] = [
            {"type": kind, "text": part}
            if isinstance(part, str)
            else {"type": "input_image", "image_url": url(part)} | draw(st.sampled_from([{}, {"detail": "low"}]))
            for part in parts
        ]
    else:
        found["content"] = [{"type": kind, "text": text} for text in texts(turn)]
    if len(found["content"]) == 1 and found["content"][0]["type"] == kind and draw(st.booleans()):
        found["content"] = found["content"][0]["text"]
    elif role == "assistant" and draw(st.booleans()):
        for part in found["content"]:
            part |= {"annotations": [], "logprobs": []}
        found |= {"id": "msg_1", "status": "completed"}
    return found | draw(st.sampled_from([{}, {"type": "message"}]))


def outcome(messages: Sequence[Message]) -> tuple[Prompt, Query] | str:
    """Return the prompt and the query, or why there are none."""
    try:
        return read_conversation(messages)
    except InvalidInput as error:
        return error.detail


@given(st.data())
def test_items_and_messages_become_the_same_prompt(data: st.DataObject) -> None:
    turns: list[Turn] = [("user", ["first?"]), *data.draw(TURNS), ("user", data.draw(PARTS))]
    instructions = data.draw(st.none() | WORDS)
    items = [data.draw(item(turn)) for turn in turns]
    body = ResponsesIn.model_validate({"input": items, "instructions": instructions})
    first = [] if instructions is None else [{"role": "system", "content": instructions}]
    chat = ChatIn.model_validate({"messages": [*first, *map(chat_message, turns)]})
    assert outcome(body.to_messages()) == outcome(chat.messages)


@given(WORDS)
def test_a_string_is_one_user_message(text: str) -> None:
    prompt, query = read_conversation(ResponsesIn.model_validate({"input": text}).to_messages())
    assert (prompt.text, query.text) == (text, text)


REFUSED: dict[str, tuple[Any, str]] = {
    "a tool call": ({"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"}, "'function_call'"),
    "a tool's output": ({"type": "function_call_output", "call_id": "1", "output": ""}, "'function_call_output'"),
    "a reference": ({"type": "item_reference", "id": "msg_1"}, "stores no items"),
    "a reference without a type": ({"id": "msg_1"}, "stores no items"),
    "reasoning": ({"type": "reasoning", "id": "rs_1", "summary": []}, "reasoning items are not supported"),
    "a file": ({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}, "files are not supported"),
    "audio": ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "audio is not supported"),
    "an uploaded image": ({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}, "image_url"),
    "an image to fetch": (
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://x.org/a.png"}]},
        "data URL",
    ),
    "an image of the assistant": (
        {"role": "assistant", "content": [{"type": "input_image", "image_url": url(b"a")}]},
        "output_text",
    ),
    "a role that does not exist": ({"role": "tool", "content": "a"}, "role"),
    "a number": (3, "dictionary"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_items_are_refused_with_a_reason(case: str) -> None:
    refused, words = REFUSED[case]
    with pytest.raises(ValidationError, match=words):
        ResponsesIn.model_validate({"input": [refused, {"role": "user", "content": "a"}]})


def test_images_are_counted_over_all_items() -> None:
    many = {"role": "user", "content": [{"type": "input_image", "image_url": url(b"a")}] * 33}
    with pytest.raises(ValidationError, match="66 images"):
        ResponsesIn.model_validate({"input": [many, {"role": "assistant", "content": "a"}, many]})
