"""A conversation becomes a prompt: earlier turns with their answers are demonstrations, the last is the question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vlibrary.api.openai.schemas import AssistantMessage, ImagePart, Message, SystemMessage, TextPart, UserMessage
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.query import Query
from vlibrary.domain.wire import Demonstration, Prompt


@dataclass
class _Turn:
    """One exchange, as it is put together from messages."""

    told: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n\n".join([*self.told, "\n".join(self.asked)])


def read_conversation(messages: Sequence[Message]) -> tuple[Prompt, Query]:
    """The prompt, and the last question by itself for retrieval, without system messages.

    Messages of one role in a row count as one. System messages go before the next user message's text. Raises
    InvalidInput unless the last message is a user's and each answer has a question, InvalidQuery when it is empty.
    """
    *earlier, last = _turns(messages)
    shown = (Demonstration(turn.text, tuple(turn.images), "\n".join(turn.answered)) for turn in earlier)
    query = Query(text="\n".join(last.asked), images=tuple(last.images))
    return Prompt(last.text, tuple(last.images), tuple(shown)), query


def _turns(messages: Sequence[Message]) -> list[_Turn]:
    if not isinstance(messages[-1], UserMessage):
        raise InvalidInput(
            f"The last message is of role {messages[-1].role!r}.", "End the messages with the user's question."
        )
    turns = [_Turn()]
    for message in messages:
        if turns[-1].answered and not isinstance(message, AssistantMessage):
            turns.append(_Turn())
        _add(message, turns[-1])
    return turns


def _add(message: Message, turn: _Turn) -> None:
    text = _text(message.content)
    if isinstance(message, SystemMessage):
        turn.told.append(text)
    elif isinstance(message, UserMessage):
        turn.asked.append(text)
        turn.images.extend(part.image_url.url for part in message.content if isinstance(part, ImagePart))
    elif not turn.asked:
        raise InvalidInput(
            "An assistant message has no user message before it.",
            "Put its question before each answer.",
        )
    else:
        turn.answered.append(text)


def _text(parts: Iterable[TextPart | ImagePart]) -> str:
    return "\n".join(part.text for part in parts if isinstance(part, TextPart))
