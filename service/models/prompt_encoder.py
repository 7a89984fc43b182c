"""Encoding prompts as a left-padded batch, with targets for teacher forcing."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import ProcessorMixin

from vlibrary.domain.errors import InvalidQuery, PromptTooLong
from vlibrary.domain.query import DEFAULT_IMAGE_FORMATS
from vlibrary.domain.wire import Prompt
from vlibrary.formats.images import decode_images
from vlibrary.models.prompt_formats import InterleavedFormat, Row, select_format

IGNORE = -100  # the default ignore_index of torch's cross-entropy


@dataclass(frozen=True, eq=False)
class Batch:
    """B encoded prompts, padded on the left to the longest, T tokens.

    inputs: the arguments of the model's forward and generate (input_ids [B, T], attention_mask, pixels ...).
    prompt_tokens: the length of each prompt, with image tokens, without padding and answer.
    targets: [B, T], the token to predict at each position, from the first answer token to the end token; IGNORE
        elsewhere. None without answers.
    """

    inputs: Mapping[str, Tensor]
    prompt_tokens: tuple[int, ...]
    targets: Tensor | None = None


class PromptEncoder:
    """Encodes prompts with the prompt format and the processor of one model; thread-safe.

    end_tokens: texts of the tokens that end a turn; the first is added where the chat template writes none.
    image_formats: those of IMAGE_FORMATS that are accepted.
    requires_image: whether prompts without an image are refused.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        end_tokens: Sequence[str],
        context_length: int,
        image_formats: Sequence[str] = DEFAULT_IMAGE_FORMATS,
    ) -> None:
        self._processor: Any = processor
        self._lock = threading.Lock()  # a tokenizer stores its padding settings during a call
        self._processor.tokenizer.padding_side = "left"
        self._format = select_format(processor, end_tokens)
        self._context_length = context_length
        self._image_formats = tuple(image_formats)
        self.requires_image = False
        # The texts that the tokenizer or the processor does not read as ordinary characters.
        special = [token.content for token in self._processor.tokenizer.added_tokens_decoder.values() if token.special]
        self._placeholders = {
            str(value) for name, value in vars(processor).items() if name.endswith("_token") and value
        }
        self._control = sorted({*special, *self._placeholders})

    def encode(self, prompts: Sequence[Prompt], answers: Sequence[str] | None = None, max_new_tokens: int = 0) -> Batch:
        """Encode B prompts, each followed by its answer when answers are given (teacher forcing).

        A prompt of tokens must be the only one.

        Raises InvalidImage; InvalidQuery for an empty prompt, a missing image, control tokens in a text, or anything
        else that the processor refuses; PromptTooLong if prompt, answer and max_new_tokens exceed the context; and
        UnsupportedModel if the chat template does not support answers.
        """
        if len(prompts) == 1 and prompts[0].tokens:
            return self._encode_tokens(prompts[0].tokens, max_new_tokens)
        for prompt in prompts:
            self._check_prompt(prompt)
        for answer in answers or ():
            self._check_text(answer)
        completions: Sequence[str | None] = [None] * len(prompts) if answers is None else answers
        rows = [
            Row(prompt.text) if prompt.verbatim else self._format.build_row(prompt, completion)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        inputs = self._process(rows, prompts)
        totals: list[int] = inputs["attention_mask"].sum(dim=1).tolist()
        lengths = tuple(total - row.tokens for total, row in zip(totals, rows, strict=True))
        self._check_length(max(totals), max_new_tokens, verbatim=prompts[0].verbatim)
        return Batch(inputs, lengths, None if answers is None else _build_targets(inputs["input_ids"], rows))

    def _encode_tokens(self, tokens: Sequence[int], max_new_tokens: int) -> Batch:
        """Encode one prompt of token ids. Raises InvalidQuery for ids that a text cannot have, PromptTooLong."""
        if isinstance(self._format, InterleavedFormat):  # its processor adds an image that no token attends to
            raise InvalidQuery("This model does not take prompts as tokens.", "Send the prompt as text.")
        tokenizer = self._processor.tokenizer
        for token in tokens:
            if not 0 <= token < len(tokenizer):
                raise InvalidQuery(
                    f"The prompt has the token {token}; this model has the tokens 0 to {len(tokenizer) - 1}.",
                    "Use this model's tokenizer, or send the prompt as text.",
                )
            if tokenizer.convert_ids_to_tokens(token) in self._placeholders:
                raise InvalidQuery(
                    f"The prompt has the token {token}, which stands for an image.",
                    "Remove it; send images as messages of a chat.",
                )
        self._check_requires_image(None)
        self._check_length(len(tokens), max_new_tokens, verbatim=True)
        ids = torch.tensor([tokens])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        types = {"token_type_ids", "mm_token_type_ids"}.intersection(self._processor.model_input_names)
        return Batch(inputs | {name: torch.zeros_like(ids) for name in types}, (len(tokens),))

    def _process(self, rows: Sequence[Row], prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        images = [decode_images(tuple(_iter_images(prompt)), self._image_formats) for prompt in prompts]
        arguments = {"padding": True, "return_tensors": "pt", **self._format.build_arguments(rows, images)}
        try:
            with self._lock:
                processed = self._processor(**arguments)
        except (TypeError, ValueError) as error:  # such as PaliGemma's for a text without an image
            raise InvalidQuery(
                f"The model's processor cannot read the prompt: {error}", "Change the prompt or its images."
            ) from error
        inputs = {name: torch.as_tensor(value) for name, value in processed.items()}
        inputs.pop("labels", None)  # PaliGemma's, which this project does not use
        if "cross_attention_mask" in inputs and len({len(own) for own in images}) > 1:
            raise InvalidQuery(
                "Prompts with different numbers of images cannot share a batch of this model: text before a row's "
                "first image would attend to the images of other rows.",
                "Send the prompts one by one, or with the same number of images.",
            )
        return inputs

    def _check_prompt(self, prompt: Prompt) -> None:
        # Without a text at all, the last demonstration's answer is followed by another answer.
        if not (prompt.text.strip() or prompt.images) and not (prompt.demonstrations and prompt.text == ""):
            raise InvalidQuery("The prompt is empty.", "Send a text, an image, or both.")
        for demonstration in prompt.demonstrations:
            self._check_text(demonstration.prompt)
            self._check_text(demonstration.answer)
        self._check_text(prompt.text, verbatim=prompt.verbatim)
        self._check_requires_image(next(_iter_images(prompt), None))

    def _check_requires_image(self, image: bytes | None) -> None:
        if self.requires_image and image is None:
            raise InvalidQuery("This model needs an image in every prompt.", "Send an image with the text.")

    def _check_text(self, text: str, *, verbatim: bool = False) -> None:
        """Refuse control tokens in a user's text: they could forge turns or refer to images that were not sent.

        verbatim: the text has no turns but its own; only images cannot be referred to.
        """
        for control in self._placeholders if verbatim else self._control:
            if control in text:
                raise InvalidQuery(
                    f"The text contains {control!r}, a control token of this model.",
                    "Remove it or insert a space; send images separately from the text.",
                )

    def _check_length(self, given: int, new: int, *, verbatim: bool) -> None:
        if given + new > self._context_length:
            name = "prompt" if verbatim else "messages"
            # OpenAI's wording, by which clients recognise the error and shorten their history.
            raise PromptTooLong(
                f"This model's maximum context length is {self._context_length} tokens. However, you requested "
                f"{given + new} tokens ({given} in the {name}, {new} in the completion).",
                f"Please reduce the length of the {name}: the text, or the number of images or earlier turns.",
            )


def _build_targets(ids: Tensor, rows: Sequence[Row]) -> Tensor:
    """Shift each row's answer, its last n tokens, one position to the left."""
    targets = torch.full_like(ids, IGNORE)
    for target, row, encoded in zip(targets, rows, ids, strict=True):
        target[-row.tokens - 1 : -1] = encoded[-row.tokens :]
    return targets


def _iter_images(prompt: Prompt) -> Iterator[bytes]:
    for demonstration in prompt.demonstrations:
        yield from demonstration.images
    yield from prompt.images
