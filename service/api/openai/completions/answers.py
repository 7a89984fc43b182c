"""OpenAI's completions: whole, and as the chunks of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Literal

from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field
from ulid import ULID

from vlibrary.api.http.problems import Problem
from vlibrary.api.openai.answers import DONE, STEERED_EXAMPLE, ChatUsage, SteeredOut, format_failure
from vlibrary.api.openai.completions.request import CompletionsIn
from vlibrary.domain.wire import ScoredToken, TextPiece
from vlibrary.library.model_names import NamedModel
from vlibrary.library.steer import Answer
from vlibrary.schemas.examples import examples
from vlibrary.schemas.logprobs import LEAST_LOGPROB

_EXAMPLE: dict[str, Any] = {
    "id": "cmpl-01K9Z4T0XJ4V6W8M2Q5R7S9A1B",
    "object": "text_completion",
    "created": 1_795_000_000,
    "model": "vlibrary/bundled-llava",
    "system_fingerprint": "9c2e5d1f",
    "choices": [{"index": 0, "text": " lorp", "logprobs": None, "finish_reason": "stop", "vlibrary": STEERED_EXAMPLE}],
    "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13},
    "vlibrary": STEERED_EXAMPLE,
}

STREAM_EXAMPLE = """\
data: {"id":"cmpl-01K9Z4T0XJ4V6W8M2Q5R7S9A1B","object":"text_completion","created":1795000000,\
"model":"vlibrary/bundled-llava","system_fingerprint":"9c2e5d1f","choices":[{"index":0,"text":" lorp",\
"logprobs":null,"finish_reason":null}]}

data: [DONE]

"""


class CompletionLogprobs(BaseModel):
    """Log-probabilities of the tokens in `text`: one entry per token in each list."""

    tokens: list[str] = Field(description="Texts of the tokens; U+FFFD stands for parts of characters")
    token_logprobs: list[float | None] = Field(
        description="null for the first token of a prompt, which follows nothing"
    )
    top_logprobs: list[dict[str, float] | None] = Field(
        description="The most likely tokens at each place and the token there, by their texts"
    )
    text_offset: list[int] = Field(description="Where each token begins: the length of the tokens before it")

    @classmethod
    def of(cls, scored: Sequence[ScoredToken], begin: int = 0) -> CompletionLogprobs:
        """Return the lists. begin: the offset of the first token."""
        found = cls(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for one in scored:
            text = _text(one)
            found.tokens.append(text)
            found.token_logprobs.append(None if one.logprob is None else _number_or_least(one))
            found.text_offset.append(begin)
            # Two tokens may have the same text; the more likely one counts.
            ranked = sorted([*one.top, one], key=_number_or_least)
            found.top_logprobs.append(
                None if one.logprob is None else {_text(each): _number_or_least(each) for each in ranked}
            )
            begin += len(text)
        return found


class CompletionChoice(BaseModel):
    """One answer. The answers to the first prompt come first."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str = Field(description="`stop` or `length`")
    vlibrary: SteeredOut = Field(description="The vectors applied to this answer, or the reason why none was")


class CompletionOut(BaseModel):
    """Completions."""

    model_config = examples(_EXAMPLE)

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="Unix time in seconds")
    model: str = Field(description="The model as named in the request; the base model's id if it named none")
    system_fingerprint: str = Field(description="Fingerprint of the base model")
    choices: list[CompletionChoice]
    usage: ChatUsage
    vlibrary: SteeredOut | None = Field(description="That of the choices; null if the request has several prompts")


class TextCompletion:
    """Formats the answers to prompts as completions or as their chunks, all with the same id, time and model.

    Implements vlibrary.api.http.streams.EventFormat. The answers to a prompt have consecutive indexes.
    """

    def __init__(self, body: CompletionsIn, model: NamedModel, path: str) -> None:
        """path: of the request."""
        self._head: dict[str, Any] = {
            "id": f"cmpl-{ULID()}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": model.base.model.fingerprint,
        }
        self._body = body
        self._path = path
        self._with_usage = bool(body.stream_options and body.stream_options.include_usage)
        # Per answer of a stream: the log-probabilities sent so far, and the length of their text.
        self._scored: dict[int, int] = {}
        self._offsets: dict[int, int] = {}

    def whole(self, answers: Sequence[Answer]) -> CompletionOut:
        """Return the completions; with `best_of`, of the best answers."""
        samples, returned = self._body.samples, self._body.answers
        groups = [answers[start : start + samples] for start in range(0, len(answers), samples)]
        best = [
            sorted(group, key=_mean_logprob, reverse=True)[:returned] if samples > returned else group
            for group in groups
        ]
        chosen = [(prompt, one) for prompt, group in enumerate(best) for one in group]
        choices = [
            CompletionChoice(
                index=index,
                text=self._echo(prompt, one) + one.generation.text,
                logprobs=self._logprobs(one),
                finish_reason=one.generation.finish_reason,
                vlibrary=SteeredOut.of_answers([one], self._body.ignored),
            )
            for index, (prompt, one) in enumerate(chosen)
        ]
        steered = SteeredOut.of_answers(answers, self._body.ignored) if len(groups) == 1 else None
        return CompletionOut(**self._head, choices=choices, usage=self._usage(answers), vlibrary=steered)

    def opening(self) -> bytes:
        """Return the echoed prompts, which are texts in a stream."""
        if not self._body.echo:
            return b""
        echoed = [prompt for prompt in self._body.prompt for _ in range(self._body.samples)]
        return b"".join(self._choice(index, str(prompt), ()) for index, prompt in enumerate(echoed))

    def piece(self, piece: TextPiece, index: int) -> bytes:
        usage = None
        if self._body.stream_options and self._body.stream_options.counts_every_chunk:
            usage = ChatUsage.of_counts(piece.prompt_tokens, piece.tokens)
        return self._choice(index, piece.text, piece.logprobs, usage)

    def answer_end(self, answer: Answer, index: int) -> bytes:
        """Return the chunk with finish_reason and steering, and with log-probabilities that no piece had."""
        unsent = (answer.generation.logprobs or ())[self._scored.get(index, 0) :]
        steered = SteeredOut.of_answers([answer], self._body.ignored).model_dump(mode="json")
        return self._choice(index, "", unsent, finish_reason=answer.generation.finish_reason, vlibrary=steered)

    def ending(self, answers: Sequence[Answer]) -> bytes:
        """Return the usage if requested, and [DONE]."""
        return (self._chunk([], usage=self._usage(answers).model_dump()) if self._with_usage else b"") + DONE

    def failure(self, problem: Problem) -> bytes:
        """Return an error event; without [DONE], which would mark the answers as complete."""
        return format_failure(problem, self._path)

    def _echo(self, prompt: int, answer: Answer) -> str:
        if not self._body.echo:
            return ""
        given = self._body.prompt[prompt]
        if isinstance(given, str):
            return given
        return b"".join(one.data for one in answer.generation.prompt_logprobs or ()).decode(errors="replace")

    def _logprobs(self, answer: Answer) -> CompletionLogprobs | None:
        if self._body.logprobs is None:
            return None
        prompt = (answer.generation.prompt_logprobs or ()) if self._body.echo else ()
        return CompletionLogprobs.of([*prompt, *(answer.generation.logprobs or ())])

    def _usage(self, answers: Sequence[Answer]) -> ChatUsage:
        """Return the usage of all prompts; what `best_of` leaves out was generated too."""
        samples = self._body.samples
        found = [ChatUsage.of(answers[start : start + samples]) for start in range(0, len(answers), samples)]
        prompt, completion = (
            sum(getattr(one, name) for one in found) for name in ("prompt_tokens", "completion_tokens")
        )
        return ChatUsage.of_counts(prompt, completion)

    def _choice(
        self, index: int, text: str, scored: Sequence[ScoredToken], usage: ChatUsage | None = None, **more: Any
    ) -> bytes:
        logprobs = None
        if scored and self._body.logprobs is not None:
            found = CompletionLogprobs.of(scored, self._offsets.get(index, 0))
            self._scored[index] = self._scored.get(index, 0) + len(scored)
            self._offsets[index] = found.text_offset[-1] + len(found.tokens[-1])
            logprobs = found.model_dump()
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": None} | more
        counts = {"usage": None if usage is None else usage.model_dump()} if self._with_usage else {}
        return self._chunk([choice], **counts)

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return format_sse_event(data_str=json.dumps(self._head | {"choices": choices} | more))


def _text(one: ScoredToken) -> str:
    return one.data.decode(errors="replace")


def _number_or_least(one: ScoredToken) -> float:
    return LEAST_LOGPROB if one.logprob is None else max(one.logprob, LEAST_LOGPROB)


def _mean_logprob(answer: Answer) -> float:
    """Return the log-probability per token; an empty answer is the worst."""
    scored = answer.generation.logprobs or ()
    return sum(map(_number_or_least, scored)) / len(scored) if scored else LEAST_LOGPROB
