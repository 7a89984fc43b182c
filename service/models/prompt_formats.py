"""How a prompt becomes the text that one model's processor reads: by its chat template, or as its makers wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL.Image import Image
from transformers import IdeficsProcessor, PaliGemmaProcessor, ProcessorMixin

from vlibrary.domain.errors import InvalidQuery, UnsupportedModel
from vlibrary.domain.wire import Demonstration, Prompt


@dataclass(frozen=True)
class Row:
    """One prompt as text; completion: the answer with its end of turn, tokens: how many tokens it has."""

    text: str
    completion: str = ""
    tokens: int = 0


class Format(Protocol):
    """One way of writing prompts."""

    def row(self, prompt: Prompt, answer: str | None) -> Row:
        """The prompt, and its answer for teacher forcing. Raises InvalidQuery and UnsupportedModel."""
        ...

    def arguments(self, rows: Sequence[Row], images: Sequence[Sequence[Image]]) -> dict[str, Any]:
        """What the processor is called with, for rows with these pictures, to give a padded batch."""
        ...


def select_format(processor: ProcessorMixin, end_tokens: Sequence[str]) -> Format:
    """end_tokens: texts of the tokens that end a turn; the first one is written where a chat template writes none.

    Raises UnsupportedModel when the model has no chat template and no format of its own here.
    """
    if isinstance(processor, PaliGemmaProcessor):
        return PrefixFormat(processor)
    if isinstance(processor, IdeficsProcessor):
        return InterleavedFormat(processor)
    if getattr(processor, "chat_template", None) is None:
        raise UnsupportedModel(
            "The model's processor has no chat_template.",
            "Use an instruction-tuned image-text-to-text model, or add chat_template.jinja to its folder.",
        )
    return ChatFormat(processor, end_tokens)


class ChatFormat:
    """Demonstrations as turns, then the question; a turn's images go before its text."""

    def __init__(self, processor: ProcessorMixin, end_tokens: Sequence[str]) -> None:
        self._processor: Any = processor
        self._tokenizer: Any = self._processor.tokenizer
        self._end_tokens = tuple(end_tokens)

    def row(self, prompt: Prompt, answer: str | None) -> Row:
        asked = self._render(_messages(prompt), add_generation_prompt=True)
        if answer is None:
            return Row(asked)
        full = self._render([*_messages(prompt), _turn("assistant", answer)], add_generation_prompt=False)
        if not full.startswith(asked):
            raise UnsupportedModel(
                "The chat template writes an answered turn differently from the prompt that asks for it.",
                "Use a chat template whose generation prompt is the beginning of the assistant's turn.",
            )
        return _completed(self._tokenizer, asked, self._until_end(full[len(asked) :]), answer)

    def arguments(self, rows: Sequence[Row], images: Sequence[Sequence[Image]]) -> dict[str, Any]:
        texts = [row.text + row.completion for row in rows]
        begin = self._tokenizer.bos_token
        return {
            "text": texts,
            "images": [list(own) for own in images] if any(images) else None,
            # The tokenizer adds the begin token if the template does not write it.
            "add_special_tokens": begin is None or not texts[0].startswith(begin),
        }

    def _until_end(self, completion: str) -> str:
        """The assistant's turn up to and with its end token; templates may go on with a line break, or write no end."""
        ends = [completion.index(end) + len(end) for end in self._end_tokens if end in completion]
        return completion[: min(ends)] if ends else completion.rstrip() + self._end_tokens[0]

    def _render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        text: str = self._processor.apply_chat_template(messages, add_generation_prompt=add_generation_prompt)
        return text


class InterleavedFormat:
    """Idefics 1: texts and pictures in one list, in which every text is a question with or without its answer.

    Its processor fetches a text that is a web address and nothing else as a picture. No text here can be one: each has
    a space inside.
    """

    def __init__(self, processor: Any) -> None:
        self._tokenizer: Any = processor.tokenizer
        self._image = self._tokenizer.convert_ids_to_tokens(processor.image_token_id)

    def row(self, prompt: Prompt, answer: str | None) -> Row:
        shown = "".join(f"{self._question(one)} {one.answer}\n" for one in prompt.demonstrations)
        asked = shown + self._question(Demonstration(prompt.text, prompt.images, ""))
        return Row(asked) if answer is None else self._answered(asked, answer)

    def arguments(self, rows: Sequence[Row], images: Sequence[Sequence[Image]]) -> dict[str, Any]:
        items = [self._items(row.text + row.completion, own) for row, own in zip(rows, images, strict=True)]
        return {"text": items, "add_special_tokens": False}  # the processor writes the begin token

    def _question(self, asked: Demonstration) -> str:
        return f"{self._image * len(asked.images)}Question: {asked.prompt}\nAnswer:"

    def _answered(self, asked: str, answer: str) -> Row:
        return _completed(self._tokenizer, asked, f" {answer}{self._tokenizer.eos_token}", answer)

    def _items(self, text: str, images: Sequence[Image]) -> list[str | Image]:
        """The text cut at each picture's place, with the pictures in between."""
        first, *rest = text.split(self._image)
        items: list[str | Image] = [first]
        for image, following in zip(images, rest, strict=True):
            items += [image, following]
        return [item for item in items if item != ""]


class PrefixFormat:
    """PaliGemma: all pictures, then the text as it is, line by line; the answer is what its makers call the suffix."""

    def __init__(self, processor: Any) -> None:
        self._tokenizer: Any = processor.tokenizer
        self._image: str = processor.image_token

    def row(self, prompt: Prompt, answer: str | None) -> Row:
        pictures = len(prompt.images) + sum(len(shown.images) for shown in prompt.demonstrations)
        lines = [f"{shown.prompt} {shown.answer}" for shown in prompt.demonstrations]
        text = self._image * pictures + "\n".join([*lines, prompt.text])
        if answer is None:
            return Row(text)
        return Row(text, answer, len(_tokens(self._tokenizer, answer + self._tokenizer.eos_token)))

    def arguments(self, rows: Sequence[Row], images: Sequence[Sequence[Image]]) -> dict[str, Any]:
        answered = any(row.tokens for row in rows)
        return {
            "text": [row.text for row in rows],
            "suffix": [row.completion for row in rows] if answered else None,  # the processor writes its end token
            "images": [list(own) for own in images] if any(images) else None,
            "add_special_tokens": False,  # the processor writes the begin token
            "return_tensors": "np",  # it makes numpy arrays of what it returns, which torch's tensors only mind
        }


def _completed(tokenizer: Any, asked: str, completion: str, answer: str) -> Row:
    """Raises InvalidQuery when prompt and answer share a token."""
    before, after = (_tokens(tokenizer, text) for text in (asked, asked + completion))
    if after[: len(before)] != before:
        raise InvalidQuery(
            f"The answer {answer!r} melts into the end of the prompt: they share a token.",
            "Strip white space from the answer, or use a chat template that ends at a token's border.",
        )
    return Row(asked, completion, len(after) - len(before))


def _tokens(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for shown in prompt.demonstrations:
        turns += [_turn("user", shown.prompt, len(shown.images)), _turn("assistant", shown.answer)]
    return [*turns, _turn("user", prompt.text, len(prompt.images))]


def _turn(role: str, text: str, images: int = 0) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}
