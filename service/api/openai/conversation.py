"""Convert a conversation to a prompt: earlier turns become demonstrations, the last one the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vlibrary.api.openai.messages import AssistantMessage, Message, SystemMessage
from vlibrary.domain.query import Query
from vlibrary.domain.wire import Demonstration, Prompt


@dataclass
class _Turn:
    """One question and its answer, collected from messages; each may be missing."""

    instructions: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    @property
    def question(self) -> str:
        return "\n".join(self.questions)

    @property
    def text(self) -> str:
        return "\n\n".join([*self.instructions, *([self.question] if self.questions else [])])


def read_conversation(messages: Sequence[Message]) -> tuple[Prompt, Query]:
    """Return the prompt, and the query for retrieval: the last question without system messages.

    Consecutive messages of one role count as one. System messages are put before the text of the next user message, or
    of the last one if none follows; without any, they are the question. An assistant message before the first user
    message, or after the last, has no question or no answer; whether the model's prompt format can express that shows
    when the prompt is encoded. Raises InvalidQuery if no message has a text or an image to answer.
    """
    turns = _read_turns(messages)
    *earlier, last = turns
    shown = (Demonstration(turn.text, tuple(turn.images), "\n".join(turn.answers)) for turn in earlier)
    return Prompt(last.text, tuple(last.images), tuple(shown)), _find_query(turns)


def _find_query(turns: Sequence[_Turn]) -> Query:
    """Return the last question; the instructions of the last turn that has a text if no turn has a question."""
    turn = next((one for one in reversed(turns) if one.question.strip() or one.images), None)
    if turn is not None and (turns[-1] is turn or not turns[-1].text):
        return Query(turn.question, tuple(turn.images))
    return Query(turns[-1].text)


def _read_turns(messages: Sequence[Message]) -> list[_Turn]:
    """Return the turns; the last one has no answer, and no question either if the conversation ends with an answer."""
    turns: list[_Turn] = []
    waiting: list[str] = []  # system messages, for the next user message
    for message in messages:
        if isinstance(message, SystemMessage):
            waiting += [message.text] if message.text.strip() else []
            continue
        if isinstance(message, AssistantMessage):
            turns = turns or [_Turn()]
            turns[-1].answers.append(message.text)
            continue
        if not turns or turns[-1].answers:
            turns.append(_Turn())
        turns[-1].instructions += waiting
        turns[-1].questions.append(message.text)
        turns[-1].images += message.images
        waiting = []
    if not turns or turns[-1].answers:
        turns.append(_Turn())
    turns[-1].instructions += waiting
    return turns
