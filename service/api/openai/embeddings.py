"""Bodies of OpenAI's embeddings: texts, or images in the form that vLLM takes for multimodal embedders."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field, model_validator

from vlibrary.api.openai.fields import Hint, NonBlankText
from vlibrary.api.openai.messages import ImagePart, TextPart, UserMessage
from vlibrary.domain.errors import InvalidInput, ModelNotFound, PromptTooLong
from vlibrary.domain.query import EmbedderSpec, Query, TaskEmbedding
from vlibrary.domain.vector import Array
from vlibrary.schemas.examples import SAMPLE_IMAGE, examples
from vlibrary.schemas.fields import StrictIn, check_images, contradiction
from vlibrary.schemas.generate import MAX_MODEL_NAME

MAX_INPUTS = 2_048  # OpenAI's limit

_MODEL = "vlibrary/bundled-encoder"


def _as_texts(value: Any) -> Any:
    """Return the input as a list of texts. Raises ValueError for tokens."""
    inputs = [value] if isinstance(value, str) else value
    if isinstance(inputs, list) and any(isinstance(one, int | list) for one in inputs):
        raise ValueError(
            "tokens are not supported, since each embedder has its own tokenizer; send the text as a string"
        )
    return inputs


EmbeddedTexts = Annotated[list[NonBlankText], Field(min_length=1, max_length=MAX_INPUTS)]


class EmbeddingsIn(StrictIn):
    """Texts to embed, or one message with a text or with images."""

    model_config = examples(
        {"input": "Which hue?"},
        {"input": ["Which hue?", "How many?"], "encoding_format": "base64"},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": f"data:image/webp;base64,{SAMPLE_IMAGE}"}},
                    ],
                }
            ]
        },
    )

    model: str | None = Field(
        default=None,
        max_length=MAX_MODEL_NAME,
        description="Id of the query embedder, see GET /v1/models; it is also the default",
    )
    input: Annotated[
        EmbeddedTexts | None,
        BeforeValidator(_as_texts, json_schema_input_type=NonBlankText | EmbeddedTexts | None),
    ] = Field(default=None, description="A text, or a list of texts")
    messages: Annotated[list[UserMessage], Field(min_length=1, max_length=1)] | None = Field(
        default=None,
        description="Instead of `input`: one user message with a text, or with images. Several images have one "
        "embedding, their mean direction",
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="`float` (default), or `base64` of little-endian 32-bit floats"
    )
    dimensions: int | None = Field(default=None, ge=1, description="Refused unless it is the embedder's dimension")
    truncate_prompt_tokens: Literal[-1] | None = Field(
        default=None, description="-1 cuts a text to what the embedder reads; by default, a longer text is refused"
    )
    user: Hint = None

    @model_validator(mode="after")
    def _check(self) -> EmbeddingsIn:
        if (self.input is None) == (self.messages is None):
            raise contradiction("messages", "send either `input` or `messages`")
        if self.messages is not None:
            parts = self.messages[0].content
            images = sum(isinstance(part, ImagePart) for part in parts)
            check_images(images, "messages")
            if images and any(isinstance(part, TextPart) and part.text.strip() for part in parts):
                raise contradiction(
                    "messages",
                    "an embedding is that of a text or of images; send the text and the images in two requests",
                )
        return self

    def to_queries(self) -> list[Query]:
        """Return what to embed: each has a text or images, never both. Raises InvalidQuery for an empty message."""
        if self.messages is None:
            return [Query(text=text) for text in self.input or ()]
        parts = self.messages[0].content
        images = tuple(part.image_url.url for part in parts if isinstance(part, ImagePart))
        return [Query("\n".join(part.text for part in parts if isinstance(part, TextPart)), images)]

    def check_embedder(self, spec: EmbedderSpec) -> None:
        """Raise ModelNotFound if the request names another model, InvalidInput if it asks for another dimension."""
        if self.model not in (None, spec.embedder_id):
            raise ModelNotFound(f"{self.model!r} is not an embedder.", f"Use {spec.embedder_id!r}, or omit the model.")
        size = spec.text_size if self.input is not None else spec.image_size
        if self.dimensions not in (None, size):
            raise InvalidInput(
                f"`dimensions` is {self.dimensions}, but the embeddings of {spec.embedder_id} have {size}.",
                f"Omit `dimensions`, or set it to {size}.",
                field="dimensions",
            )

    def check_lengths(self, embeddings: Sequence[TaskEmbedding]) -> None:
        """Raise PromptTooLong if the embedder did not read a whole text, unless the request allows that."""
        for index, embedding in enumerate(embeddings):
            if embedding.text_cut and self.truncate_prompt_tokens is None:
                raise PromptTooLong(
                    f"Text {index} has {embedding.text_tokens} tokens; the embedder reads {embedding.text_limit}.",
                    "Shorten it, or set `truncate_prompt_tokens` to -1 to have its end cut off.",
                )


class EmbeddingOut(BaseModel):
    """An embedding of length 1."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Place of its text in `input`")
    embedding: list[float] | str = Field(description="Numbers, or base64 of little-endian 32-bit floats")


class EmbeddingsUsage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsOut(BaseModel):
    """The embeddings, in the order of the input."""

    model_config = examples(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}],
            "model": _MODEL,
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
        }
    )

    object: Literal["list"] = "list"
    data: list[EmbeddingOut]
    model: str
    usage: EmbeddingsUsage

    @classmethod
    def of(
        cls, embeddings: Sequence[TaskEmbedding], model: str, encoding: Literal["float", "base64"] | None
    ) -> EmbeddingsOut:
        """Return the body; each embedding has one part, a text or an image."""
        parts = [one.image if one.text is None else one.text for one in embeddings]
        data = [
            EmbeddingOut(index=index, embedding=_to_base64(part) if encoding == "base64" else part.tolist())
            for index, part in enumerate(parts)
            if part is not None
        ]
        tokens = sum(min(one.text_tokens, one.text_limit) for one in embeddings)
        return cls(data=data, model=model, usage=EmbeddingsUsage(prompt_tokens=tokens, total_tokens=tokens))


def _to_base64(embedding: Array) -> str:
    return base64.b64encode(embedding.astype(np.dtype("<f4")).tobytes()).decode()
