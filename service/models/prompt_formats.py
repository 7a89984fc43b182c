"""Prompt formats: the text that a model's processor reads, from a chat template or in a model's own format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2 import TemplateError
from PIL.Image import Image
from transformers import IdeficsProcessor, PaliGemmaProcessor, ProcessorMixin

from vlibrary.domain.errors import InvalidQuery, UnsupportedModel
from vlibrary.domain.wire import Demonstration, Prompt


@dataclass(frozen=True)
class Row:
    """One prompt as text.

    completion: the answer with its end token; empty without an answer. tokens: the number of tokens in it.
    """

    text: str
    completion: str = ""
    tokens: int = 0


class Format(Protocol):
    """The prompt format of one family of models."""

    def build_row(self, prompt: Prompt, answer: str | None) -> Row:
        """Write the prompt, followed by its answer for teacher forcing. Raises InvalidQuery and UnsupportedModel."""
        ...

    def build_arguments(self, rows: Sequence[Row], images: Sequence[Sequence[Image]]) -> dict[str, Any]:
        """Return the processor's arguments for a batch of rows with these images."""
        ...


def select_format(processor: ProcessorMixin, end_tokens: Sequence[str]) -> Format:
    """Return the format that a model's processor needs.

    end_tokens: texts of the tokens that end a turn; the first is added where a chat template writes none.
    Raises UnsupportedModel if the processor has no chat template and no format is defined for it here.
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
    """Chat templates: each demonstration is two turns, then comes the question; a turn's images precede its text."""

    def __init__(self, processor: ProcessorMixin, end_tokens: Sequence[str]) -> None:
        self._processor: Any = processor
        self._tokenizer: Any = self._processor.tokenizer
        self._end_tokens = tuple(end_tokens)

    def build_row(self, prompt: Prompt, answer: str | None) -> Row:
        messages: list[dict[str, Any]] = []
        for one in prompt.demonstrations:
            messages += _build_question(one.prompt, len(one.images))
            messages.append(_build_turn("assistant", one.answer))
        messages += _build_question(prompt.text, len(prompt.images))
        text = self._render_prompt(messages, prompt)
        if answer is None:
            return Row(text)
        full = self._render([*messages, _build_turn("assistant", answer)], add_generation_prompt=False)
        if not full.startswith(text):
            raise UnsupportedModel(
                "The chat template does not begin an assistant turn with its generation prompt.",
                "Use a chat template whose generation prompt is the beginning of the assistant's turn.",
            )
        completion = full[len(text) :]
        # Cut after the end token: templates may add a line break after it, or write no end token.
        ends = [completion.index(end) + len(end) for end in self._end_tokens if end in completion]
        completion = completion[: min(ends)] if ends else completion.rstrip() + self._end_tokens[0]
        return _complete_row(self._tokenizer, text, completion, answer)

    def build_arguments(self, rows: Sequence[Row], images: Sequence[Sequence[Image]]) -> dict[str, Any]:
        texts = [row.text + row.completion for row in rows]
        begin = self._tokenizer.bos_token
        return {
            "text": texts,
            "images": [list(own) for own in images] if any(images) else None,
            # The tokenizer adds the begin token if the template does not write it.
            "add_special_tokens": begin is None or not texts[0].startswith(begin),
        }

    def _render_prompt(self, messages: list[dict[str, Any]], prompt: Prompt) -> str:
        """Return the prompt. Raises InvalidQuery if the template does not express its turns without a question."""
        unasked = [one.answer.strip() for one in prompt.demonstrations if not _is_asked(one.prompt, one.images)]
        try:
            text = self._render(messages, add_generation_prompt=True)
        except TemplateError as error:
            raise InvalidQuery(
                f"The model's chat template refuses this order of messages: {error}",
                "Let user and assistant messages alternate, the first and the last from the user.",
            ) from error
        if any(answer not in text for answer in unasked):
            raise InvalidQuery(
                "The model's chat template leaves out an assistant message that has no user message before it.",
                "Put each question before its answer.",
            )
        return text

    def _render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        text: str = self._processor.apply_chat_template(messages, add_generation_prompt=add_generation_prompt)
        return text


class InterleavedFormat:
    """Idefics 1: one list of texts and images.

    The processor would download an image from a list item that is a URL. This format writes none: every text contains
    a space.
    """

    def __init__(self, processor: Any) -> None:
        self._tokenizer: Any = processor.tokenizer
        self._image = self._tokenizer.convert_ids_to_tokens(processor.image_token_id)

    def build_row(self, prompt: Prompt, answer: str | None) -> Row:
        _check_pairs(prompt)
        demonstrations = "".join(f"{self._format_question(one)} {one.answer}\n" for one in prompt.demonstrations)
        text = demonstrations + self._format_question(Demonstration(prompt.text, prompt.images, ""))
        if answer is None:
            return Row(text)
        return _complete_row(self._tokenizer, text, f" {answer}{self._tokenizer.eos_token}", answer)

    def build_arguments(self, rows: Sequence[Row], images: Sequence[Sequence[Image]]) -> dict[str, Any]:
        items = [self._insert_images(row.text + row.completion, own) for row, own in zip(rows, images, strict=True)]
        return {"text": items, "add_special_tokens": False}  # the processor adds the begin token

    def _format_question(self, question: Demonstration) -> str:
        return f"{self._image * len(question.images)}Question: {question.prompt}\nAnswer:"

    def _insert_images(self, text: str, images: Sequence[Image]) -> list[str | Image]:
        """Split the text at its image tokens and put the images between the parts."""
        first, *rest = text.split(self._image)
        items: list[str | Image] = [first]
        for image, following in zip(images, rest, strict=True):
            items += [image, following]
        return [item for item in items if item != ""]


class PrefixFormat:
    """PaliGemma: all images, then one line per demonstration and the question; the answer is the `suffix`."""

    def __init__(self, processor: Any) -> None:
        self._tokenizer: Any = processor.tokenizer
        self._image: str = processor.image_token

    def build_row(self, prompt: Prompt, answer: str | None) -> Row:
        _check_pairs(prompt)
        images = len(prompt.images) + sum(len(one.images) for one in prompt.demonstrations)
        lines = [f"{one.prompt} {one.answer}" for one in prompt.demonstrations]
        text = self._image * images + "\n".join([*lines, prompt.text])
        if answer is None:
            return Row(text)
        return Row(text, answer, len(_tokenize(self._tokenizer, answer + self._tokenizer.eos_token)))

    def build_arguments(self, rows: Sequence[Row], images: Sequence[Sequence[Image]]) -> dict[str, Any]:
        with_answers = any(row.tokens for row in rows)
        return {
            "text": [row.text for row in rows],
            "suffix": [row.completion for row in rows] if with_answers else None,  # the processor adds the end token
            "images": [list(own) for own in images] if any(images) else None,
            "add_special_tokens": False,  # the processor adds the begin token
            "return_tensors": "np",  # it converts its output with numpy, which warns about torch tensors
        }


def _complete_row(tokenizer: Any, text: str, completion: str, answer: str) -> Row:
    """Return the row of a prompt and its answer. Raises InvalidQuery if the tokenizer merges the two."""
    before, after = (_tokenize(tokenizer, one) for one in (text, text + completion))
    if after[: len(before)] != before:
        raise InvalidQuery(
            f"The tokenizer merges the beginning of the answer {answer!r} with the end of the prompt.",
            "Strip whitespace from the answer, or use a chat template whose prompts end at a token boundary.",
        )
    return Row(text, completion, len(after) - len(before))


def _tokenize(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _is_asked(text: str, images: Sequence[bytes]) -> bool:
    """Return whether a turn has a question; without one, it is only an assistant's message."""
    return bool(text or images)


def _check_pairs(prompt: Prompt) -> None:
    """Raise InvalidQuery unless every answer has a question, and the prompt ends with one."""
    turns = [(one.prompt, one.images) for one in prompt.demonstrations]
    if not all(_is_asked(*turn) for turn in [*turns, (prompt.text, prompt.images)]):
        raise InvalidQuery(
            "This model's prompt format has no place for an assistant message without a question before or after it.",
            "Put each question before its answer, and end with a question.",
        )


def _build_question(text: str, images: int) -> list[dict[str, Any]]:
    return [_build_turn("user", text, images)] if text or images else []


def _build_turn(role: str, text: str, images: int = 0) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}
