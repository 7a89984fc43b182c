"""Histories of messages in any order, through every family's prompt format: expressed whole, or refused."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.models.test_prompts import decode_rows
from tests.model.samples import required_images
from vlibrary.api.openai.conversation import read_conversation
from vlibrary.api.openai.messages import AssistantMessage, Message, SystemMessage, TextPart, UserMessage
from vlibrary.domain.errors import InvalidQuery
from vlibrary.domain.wire import Prompt
from vlibrary.models.lvlm import Lvlm

ROLES = st.lists(st.sampled_from(["system", "user", "assistant"]), min_size=1, max_size=6)


def messages_of(roles: list[str]) -> list[Message]:
    """Return messages with distinct texts."""
    return [_message(role, f"part{number}x") for number, role in enumerate(roles)]


def _message(role: str, text: str) -> Message:
    part = TextPart(type="text", text=text)
    if role == "system":
        return SystemMessage(role="system", content=[part])
    if role == "user":
        return UserMessage(role="user", content=[part])
    return AssistantMessage(role="assistant", content=[part])


def is_paired(prompt: Prompt) -> bool:
    """Return whether every answer has a question, and the prompt ends with one."""
    return bool(prompt.text) and all(one.prompt for one in prompt.demonstrations)


def _texts(messages: list[Message]) -> Iterator[str]:
    yield from (message.text for message in messages)


# Each family is loaded once; the first example of a family takes longest.
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(roles=ROLES)
def test_every_text_of_a_history_reaches_the_model_or_it_is_refused(lvlm: Lvlm, roles: list[str]) -> None:
    messages = messages_of(roles)
    try:
        prompt, _ = read_conversation(messages)
    except InvalidQuery:
        assert set(roles) == {"assistant"}
        return
    with_images = Prompt(prompt.text, required_images(lvlm) if prompt.text else (), prompt.demonstrations)
    try:
        batch = lvlm.encode([with_images])
    except InvalidQuery:
        assert not is_paired(prompt)
        return
    (row,) = decode_rows(lvlm, batch.inputs)
    assert [text for text in _texts(messages) if text not in row] == []


def test_an_assistant_message_may_come_first_and_last(llava: Lvlm) -> None:
    prompt, _ = read_conversation(messages_of(["assistant", "user", "assistant"]))
    (row,) = decode_rows(llava, llava.encode([prompt]).inputs)
    assert row.index("part0x") < row.index("part1x") < row.index("part2x")
