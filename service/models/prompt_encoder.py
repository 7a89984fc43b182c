"""From prompts to a left-padded batch: chat turns, pictures, token counts, and the targets for teacher forcing."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import ProcessorMixin

from vlibrary.domain.errors import InvalidQuery, PromptTooLong
from vlibrary.domain.wire import Prompt
from vlibrary.formats.images import decode_images
from vlibrary.models.prompt_formats import Row, select_format

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


class PromptEncoder:
    """The prompt format and the processor of one model.

    end_tokens: texts of the tokens that end a turn; the first one is written where the chat template writes none.
    requires_image: refuse prompts without one.
    """

    def __init__(self, processor: ProcessorMixin, end_tokens: Sequence[str], context_length: int) -> None:
        self._processor: Any = processor
        self._lock = threading.Lock()  # how a tokenizer pads is its state, which threads must not change for each other
        self._processor.tokenizer.padding_side = "left"
        self._format = select_format(processor, end_tokens)
        self._context_length = context_length
        self.requires_image = False
        self._control = _control_texts(self._processor)

    def encode(self, prompts: Sequence[Prompt], answers: Sequence[str] | None = None, max_new_tokens: int = 0) -> Batch:
        """Encode B prompts, each followed by its answer when answers are given (teacher forcing).

        Raises InvalidImage, InvalidQuery (nothing asked, no picture where one is needed, control tokens in a text, or
        something else that the processor refuses) and PromptTooLong (prompt, answer and max_new_tokens exceed the
        context); UnsupportedModel when the chat template cannot be used for answers.
        """
        wanted: Sequence[str | None] = [None] * len(prompts) if answers is None else answers
        rows = [self._row(prompt, answer) for prompt, answer in zip(prompts, wanted, strict=True)]
        inputs = self._process(rows, prompts)
        totals: list[int] = inputs["attention_mask"].sum(dim=1).tolist()
        lengths = tuple(total - row.tokens for total, row in zip(totals, rows, strict=True))
        self._check_length(max(totals) + max_new_tokens)
        return Batch(inputs, lengths, None if answers is None else _targets(inputs["input_ids"], rows))

    def _process(self, rows: Sequence[Row], prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        images = [decode_images(tuple(_images(prompt))) for prompt in prompts]
        arguments = {"padding": True, "return_tensors": "pt", **self._format.arguments(rows, images)}
        try:
            with self._lock:
                processed = self._processor(**arguments)
        except (TypeError, ValueError) as error:  # such as PaliGemma's, for a text alone
            raise InvalidQuery(
                f"The model's processor cannot read the prompt: {error}", "Change the prompt or its images."
            ) from error
        inputs = {name: torch.as_tensor(value) for name, value in processed.items()}
        inputs.pop("labels", None)  # PaliGemma's, for another loss than ours
        if "cross_attention_mask" in inputs and len({len(own) for own in images}) > 1:
            raise InvalidQuery(
                "Prompts with different numbers of pictures cannot share a batch of this model: what a row writes "
                "before its first picture sees the whole batch's pictures.",
                "Ask them one by one, or with as many pictures each.",
            )
        return inputs

    def _row(self, prompt: Prompt, answer: str | None) -> Row:
        self._check_prompt(prompt)
        if answer is not None:
            self._check_text(answer)
        return self._format.row(prompt, answer)

    def _check_prompt(self, prompt: Prompt) -> None:
        if not prompt.text.strip() and not prompt.images:
            raise InvalidQuery("The prompt is empty.", "Send a text, an image, or both.")
        for text in _texts(prompt):
            self._check_text(text)
        if self.requires_image and next(_images(prompt), None) is None:
            raise InvalidQuery("This model reads no prompt without a picture.", "Send an image with the text.")

    def _check_text(self, text: str) -> None:
        """Control tokens in a user's text would forge turns or ask for images that were not sent."""
        for control in self._control:
            if control in text:
                raise InvalidQuery(
                    f"The text contains {control!r}, which this model reads as a control token.",
                    "Remove it or insert a space; send images separately from the text.",
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


def _targets(ids: Tensor, rows: Sequence[Row]) -> Tensor:
    """Padding is on the left, so an answer of n tokens is the row's last n, each predicted one position earlier."""
    targets = torch.full_like(ids, IGNORE)
    for target, row, encoded in zip(targets, rows, ids, strict=True):
        target[-row.tokens - 1 : -1] = encoded[-row.tokens :]
    return targets


def _texts(prompt: Prompt) -> Iterator[str]:
    yield from chain.from_iterable((shown.prompt, shown.answer) for shown in prompt.demonstrations)
    yield prompt.text


def _images(prompt: Prompt) -> Iterator[bytes]:
    yield from chain.from_iterable(shown.images for shown in prompt.demonstrations)
    yield from prompt.images
