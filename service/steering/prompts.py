"""From prompts to a left-padded batch: chat turns, pictures, token counts, and the targets for teacher forcing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import ProcessorMixin

from service.domain.errors import InvalidQuery, PromptTooLong, UnsupportedModel
from service.domain.wire import Prompt
from service.images import decode_image

IGNORE = -100  # what torch's cross-entropy leaves out


@dataclass(frozen=True, eq=False)
class Batch:
    """B encoded prompts, padded on the left to the longest, T tokens.

    inputs: what the model's forward and generate take (input_ids [B, T], attention_mask, pixels ...), on its device.
    prompt_tokens: per row, images' tokens included, padding and answer left out.
    targets: [B, T], with answers only: the token to be predicted AT each position, IGNORE where none is asked for.
        Every answer token counts, the first one and the end of turn included.
    """

    inputs: Mapping[str, Tensor]
    prompt_tokens: tuple[int, ...]
    targets: Tensor | None = None


@dataclass(frozen=True)
class _Row:
    """One prompt as text; completion: the answer with its end of turn, tokens: how many tokens it has."""

    text: str
    completion: str = ""
    tokens: int = 0


class PromptEncoder:
    """The chat template and the processor of one model.

    end_tokens: texts of the tokens that end a turn; the first one is written where the template writes none.
    """

    def __init__(self, processor: ProcessorMixin, end_tokens: Sequence[str], context_length: int) -> None:
        self._processor: Any = processor
        self._tokenizer = self._processor.tokenizer
        self._tokenizer.padding_side = "left"
        self._end_tokens = tuple(end_tokens)
        self._context_length = context_length
        self._control = _control_texts(self._processor)

    def encode(self, prompts: Sequence[Prompt], answers: Sequence[str] | None = None, max_new_tokens: int = 0) -> Batch:
        """Encode B prompts, each followed by its answer when answers are given (teacher forcing).

        Raises InvalidImage, InvalidQuery (nothing asked, or control tokens in a text) and PromptTooLong (prompt, answer
        and max_new_tokens exceed the context); UnsupportedModel when the chat template cannot be used for answers.
        """
        if answers is None:
            rows = [self._row(prompt) for prompt in prompts]
        else:
            rows = [self._answered(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        inputs = self._process(rows, prompts)
        totals: list[int] = inputs["attention_mask"].sum(dim=1).tolist()
        lengths = tuple(total - row.tokens for total, row in zip(totals, rows, strict=True))
        self._check_length(max(totals) + max_new_tokens)
        return Batch(inputs, lengths, None if answers is None else _targets(inputs["input_ids"], rows))

    def _process(self, rows: Sequence[_Row], prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        images = [[decode_image(data) for data in _images(prompt)] for prompt in prompts]
        texts = [row.text + row.completion for row in rows]
        return dict(
            self._processor(
                text=texts,
                images=images if any(images) else None,
                padding=True,
                return_tensors="pt",
                add_special_tokens=self._adds_begin(texts[0]),
            )
        )

    def _adds_begin(self, text: str) -> bool:
        """Whether the tokenizer shall write the begin token, because the template does not."""
        begin = self._tokenizer.bos_token
        return begin is None or not text.startswith(begin)

    def _row(self, prompt: Prompt) -> _Row:
        self._check_prompt(prompt)
        return _Row(self._render(_messages(prompt), add_generation_prompt=True))

    def _answered(self, prompt: Prompt, answer: str) -> _Row:
        self._check_text(answer)
        asked = self._row(prompt).text
        full = self._render([*_messages(prompt), _turn("assistant", answer)], add_generation_prompt=False)
        if not full.startswith(asked):
            raise UnsupportedModel(
                "The chat template writes an answered turn differently from the prompt that asks for it.",
                "Use a chat template whose generation prompt is the beginning of the assistant's turn.",
            )
        completion = self._until_end(full[len(asked) :])
        before, after = (self._tokens(text) for text in (asked, asked + completion))
        if after[: len(before)] != before:
            raise InvalidQuery(
                f"The answer {answer!r} melts into the end of the prompt: they share a token.",
                "Strip white space from the answer, or use a chat template that ends at a token's border.",
            )
        return _Row(asked, completion, len(after) - len(before))

    def _until_end(self, completion: str) -> str:
        """The assistant's turn up to and with its end token; templates may go on with a line break, or write no end."""
        ends = [completion.index(end) + len(end) for end in self._end_tokens if end in completion]
        return completion[: min(ends)] if ends else completion.rstrip() + self._end_tokens[0]

    def _render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        text: str = self._processor.apply_chat_template(messages, add_generation_prompt=add_generation_prompt)
        return text

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _check_prompt(self, prompt: Prompt) -> None:
        if not prompt.text.strip() and not prompt.images:
            raise InvalidQuery("The prompt is empty.", "Send a text, an image, or both.")
        for text in _texts(prompt):
            self._check_text(text)

    def _check_text(self, text: str) -> None:
        """Control tokens in a user's text would forge turns or ask for images that were not sent."""
        for control in self._control:
            if control in text:
                raise InvalidQuery(
                    f"The text contains {control!r}, which this model reads as a control token.",
                    "Leave it out or put a space inside it; images are sent beside the text.",
                )

    def _check_length(self, needed: int) -> None:
        if needed > self._context_length:
            raise PromptTooLong(
                f"Prompt and answer need {needed} tokens; the model's context has {self._context_length}.",
                "Shorten the text, send fewer images or demonstrations, or lower max_new_tokens.",
            )


def _control_texts(processor: Any) -> tuple[str, ...]:
    """All texts that the tokenizer or the processor replaces by something else than their letters."""
    special = [token.content for token in processor.tokenizer.added_tokens_decoder.values() if token.special]
    placeholders = [str(value) for name, value in vars(processor).items() if name.endswith("_token") and value]
    return tuple(sorted({*special, *placeholders}))


def _targets(ids: Tensor, rows: Sequence[_Row]) -> Tensor:
    """Padding is on the left, so an answer of n tokens is the row's last n, each predicted one position earlier."""
    targets = torch.full_like(ids, IGNORE)
    for target, row, encoded in zip(targets, rows, ids, strict=True):
        target[-row.tokens - 1 : -1] = encoded[-row.tokens :]
    return targets


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    """Demonstrations as turns, then the question; a turn's images go before its text."""
    turns: list[dict[str, Any]] = []
    for shown in prompt.demonstrations:
        turns += [_turn("user", shown.prompt, len(shown.images)), _turn("assistant", shown.answer)]
    return [*turns, _turn("user", prompt.text, len(prompt.images))]


def _turn(role: str, text: str, images: int = 0) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}


def _texts(prompt: Prompt) -> Iterator[str]:
    yield from chain.from_iterable((shown.prompt, shown.answer) for shown in prompt.demonstrations)
    yield prompt.text


def _images(prompt: Prompt) -> Iterator[bytes]:
    yield from chain.from_iterable(shown.images for shown in prompt.demonstrations)
    yield from prompt.images
