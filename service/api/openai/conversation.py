"""Convert a conversation to a prompt: earlier turns become demonstrations, the last one the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vlibrary.api.openai.schemas import AssistantMessage, ImagePart, Message, SystemMessage, TextPart, UserMessage
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.query import Query
from vlibrary.domain.wire import Demonstration, Prompt


@dataclass
class _Turn:
    """One question and its answer, collected from messages."""

    instructions: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n\n".join([*self.instructions, "\n".join(self.questions)])


def read_conversation(messages: Sequence[Message]) -> tuple[Prompt, Query]:
    """Return the prompt, and the query for retrieval: the last question without system messages.

    Consecutive messages of one role count as one. System messages are put before the text of the next user message.
    Raises InvalidInput unless the last message is a user's and each answer has a question, InvalidQuery if it is empty.
    """
    *earlier, last = _turns(messages)
    shown = (Demonstration(turn.text, tuple(turn.images), "\n".join(turn.answers)) for turn in earlier)
    query = Query(text="\n".join(last.questions), images=tuple(last.images))
    return Prompt(last.text, tuple(last.images), tuple(shown)), query


def _turns(messages: Sequence[Message]) -> list[_Turn]:
    if not isinstance(messages[-1], UserMessage):
        raise InvalidInput(f"The last message has the role {messages[-1].role!r}.", "End with a user message.")
    turns = [_Turn()]
    for message in messages:
        if turns[-1].answers and not isinstance(message, AssistantMessage):
            turns.append(_Turn())
        _add(message, turns[-1])
    return turns


def _add(message: Message, turn: _Turn) -> None:
    text = "\n".join(part.text for part in message.content if isinstance(part, TextPart))
    if isinstance(message, SystemMessage):
        turn.instructions.append(text)
    elif isinstance(message, UserMessage):
        turn.questions.append(text)
        turn.images.extend(part.image_url.url for part in message.content if isinstance(part, ImagePart))
    elif not turn.questions:
        raise InvalidInput(
            "An assistant message has no user message before it.",
            "Put each question before its answer.",
        )
    else:
        turn.answers.append(text)
