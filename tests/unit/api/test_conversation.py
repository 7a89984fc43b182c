"""Conversations as prompts: which turns become demonstrations, what is asked, and that nothing is left out."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.samples import png
from vlibrary.api.openai.chat import ChatIn
from vlibrary.api.openai.conversation import read_conversation
from vlibrary.domain.errors import InvalidQuery
from vlibrary.domain.query import Query
from vlibrary.domain.wire import Demonstration, Prompt

RED = png((200, 0, 0))
URL = f"data:image/png;base64,{base64.b64encode(RED).decode()}"


def read(*messages: Any) -> tuple[Prompt, Query]:
    return read_conversation(ChatIn.model_validate({"messages": list(messages)}).messages)


def say(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


def test_a_greeting_of_the_assistant_is_shown_without_a_question() -> None:
    prompt, query = read(say("system", "Be brief."), say("assistant", "Hello!"), say("user", "Which hue?"))
    assert prompt == Prompt("Be brief.\n\nWhich hue?", (), (Demonstration("", (), "Hello!"),))
    assert query == Query("Which hue?")


def test_a_conversation_that_ends_with_an_answer_asks_for_another() -> None:
    prompt, query = read(say("user", "Which hue?"), say("assistant", "lorp"))
    assert prompt == Prompt("", (), (Demonstration("Which hue?", (), "lorp"),))
    assert query == Query("Which hue?")


def test_instructions_at_the_end_belong_to_the_last_question() -> None:
    prompt, query = read(say("user", "Which hue?"), say("developer", "Answer in one word."))
    assert (prompt, query) == (Prompt("Answer in one word.\n\nWhich hue?"), Query("Which hue?"))


def test_instructions_alone_are_the_question() -> None:
    assert read(say("system", "Name a hue.")) == (Prompt("Name a hue."), Query("Name a hue."))
    prompt, query = read(say("user", "Hue?"), say("assistant", "lorp"), say("system", "Now name a shape."))
    assert prompt == Prompt("Now name a shape.", (), (Demonstration("Hue?", (), "lorp"),))
    assert query == Query("Now name a shape.")


@pytest.mark.parametrize(
    "answer",
    [
        say("assistant", None),
        say("assistant", ""),
        say("assistant", None, tool_calls=None, function_call=None, audio=None, refusal=None),
        say("assistant", [], tool_calls=[]),
        {"role": "assistant"},
    ],
)
def test_an_answer_without_content_is_an_empty_answer(answer: dict[str, Any]) -> None:
    prompt, _ = read(say("user", "Which hue?"), answer, say("user", "And here?"))
    assert prompt == Prompt("And here?", (), (Demonstration("Which hue?", (), ""),))


def test_a_refusal_is_what_the_answer_said() -> None:
    for refused in (
        say("assistant", None, refusal="I cannot."),
        say("assistant", [{"type": "refusal", "refusal": "I cannot."}]),
    ):
        prompt, _ = read(say("user", "Which hue?"), refused, say("user", "Why?"))
        assert prompt.demonstrations == (Demonstration("Which hue?", (), "I cannot."),)


PARTS: dict[str, Any] = {
    "an object": {"type": "image_url", "image_url": {"url": URL}},
    "a plain string": {"type": "image_url", "image_url": URL},
    "the part of a response": {"type": "input_image", "image_url": URL, "detail": "auto"},
    "capitals": {"type": "image_url", "image_url": {"url": URL.replace("data:", "DATA:")}},
    **{f"detail {one}": {"type": "image_url", "image_url": {"url": URL, "detail": one}} for one in ("low", "high")},
    "detail original": {"type": "image_url", "image_url": {"url": URL, "detail": "original"}},
    "a cache hint": {"type": "image_url", "image_url": {"url": URL}, "cache_control": {"type": "ephemeral"}},
}


@pytest.mark.parametrize("case", PARTS)
def test_every_form_of_an_image_is_read(case: str) -> None:
    text = {"type": "input_text", "text": "Hue?", "cache_control": {"type": "ephemeral"}}
    assert read(say("user", [PARTS[case], text], name="ann")) == (Prompt("Hue?", (RED,)), Query("Hue?", (RED,)))


@pytest.mark.parametrize("messages", [[say("user", " ")], [say("assistant", "lorp")], [say("system", "")]])
def test_a_conversation_without_anything_to_answer_is_refused(messages: list[Any]) -> None:
    with pytest.raises(InvalidQuery):
        read(*messages)


TEXTS = st.text(alphabet="abc \n", max_size=8)
CONTENTS = st.one_of(TEXTS, st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXTS), max_size=3))
IMAGES = st.lists(st.sampled_from([PARTS["an object"], PARTS["a plain string"]]), max_size=2)
MESSAGES = st.one_of(
    st.builds(say, st.sampled_from(["system", "developer"]), CONTENTS),
    st.builds(say, st.just("user"), CONTENTS),
    st.builds(lambda images: say("user", [*images, {"type": "text", "text": "q"}]), IMAGES),
    st.builds(say, st.just("assistant"), st.one_of(st.none(), CONTENTS)),
)


@given(messages=st.lists(MESSAGES, min_size=1, max_size=8))
def test_no_text_and_no_image_of_a_history_is_left_out(messages: list[dict[str, Any]]) -> None:
    parsed = ChatIn.model_validate({"messages": messages}).messages
    try:
        prompt, _ = read_conversation(parsed)
    except InvalidQuery:
        asked = [one for one in parsed if one.role == "user" or (one.role != "assistant" and one.text.strip())]
        assert not asked or not asked[-1].text.strip()
        return
    shown = "\n".join([*(f"{one.prompt}\n{one.answer}" for one in prompt.demonstrations), prompt.text])
    assert sorted(shown.replace("\n", " ").split()) == sorted(" ".join(one.text for one in parsed).split())
    sent = [part for one in messages for part in one["content"] or () if "image_url" in part]
    assert len(prompt.every_image) == len(sent)
