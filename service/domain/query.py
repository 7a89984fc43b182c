"""Queries, their embeddings and the score of a task key.

A query has an image part, a text part, or both. Each part is embedded separately and L2-normalised; task keys have the
same two parts. The score of a key is the mean cosine over the parts of the query. It equals the inner product of the
concatenated rows divided by the number of the query's parts, so an inner-product index can search for it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from vlibrary.domain.errors import InvalidQuery
from vlibrary.domain.vector import Array

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
DEFAULT_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


class Modality(StrEnum):
    """Which parts a query has. Thresholds are calibrated per modality, since scores differ."""

    TEXT = "text"
    IMAGE = "image"
    IMAGE_TEXT = "image_text"


@dataclass(frozen=True)
class Query:
    """A text, images or both to find vectors for. images: encoded files; several are embedded as their mean direction.

    Raises InvalidQuery for an empty query.
    """

    text: str | None = None
    images: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.text is not None and not self.text.strip():
            object.__setattr__(self, "text", None)
        if self.text is None and not self.images:
            raise InvalidQuery("The query is empty.", "Send a text, an image, or both.")

    @property
    def modality(self) -> Modality:
        if self.text is None:
            return Modality.IMAGE
        return Modality.IMAGE_TEXT if self.images else Modality.TEXT


@dataclass(frozen=True)
class EmbedderSpec:
    """Identity of an embedder; keys of different embedders cannot be compared.

    image_size, text_size: dimensions of the two parts.
    """

    embedder_id: str
    fingerprint: str
    image_size: int
    text_size: int

    @property
    def row_size(self) -> int:
        return self.image_size + self.text_size


@dataclass(frozen=True, eq=False)
class TaskEmbedding:
    """A query or a task key: up to two unit vectors, image [image_size] and text [text_size], float32.

    text_tokens: length of a query's text. text_limit: how many of its tokens the embedder reads.
    """

    image: Array | None = None
    text: Array | None = None
    text_tokens: int = 0
    text_limit: int = 0

    @property
    def text_cut(self) -> bool:
        """Whether the text is longer than the embedder reads, so that the embedding lacks its end."""
        return self.text_tokens > self.text_limit

    @property
    def modality(self) -> Modality:
        """Which parts it has; it has at least one."""
        if self.text is None:
            return Modality.IMAGE
        return Modality.TEXT if self.image is None else Modality.IMAGE_TEXT

    @property
    def parts(self) -> int:
        return (self.image is not None) + (self.text is not None)

    @classmethod
    def from_row(cls, row: Array, spec: EmbedderSpec) -> TaskEmbedding:
        """Return the embedding of a row [row_size], the inverse of `row`; a part of zeros is a missing one."""
        image, text = row[: spec.image_size], row[spec.image_size :]
        return cls(image if image.any() else None, text if text.any() else None)

    def row(self, spec: EmbedderSpec) -> Array:
        """Return the concatenation [image ‖ text], zeros for a missing part; shape [row_size], float32."""
        image = np.zeros(spec.image_size, np.float32) if self.image is None else self.image
        text = np.zeros(spec.text_size, np.float32) if self.text is None else self.text
        return np.concatenate([image, text]).astype(np.float32)


@dataclass(frozen=True)
class PartScores:
    """The cosine of each part of a query with the closest of a vector's keys, in [-1, 1].

    image, text: None if the query or every key lacks the part. The closest image and the closest text can be of two
    keys. covered: whether the vector has a key without parts that the query lacks.
    """

    image: float | None = None
    text: float | None = None
    covered: bool = True

    @property
    def cosines(self) -> dict[Modality, float]:
        """The cosines by part, of the parts that have one."""
        found = {Modality.IMAGE: self.image, Modality.TEXT: self.text}
        return {part: cosine for part, cosine in found.items() if cosine is not None}


def score_parts(query: TaskEmbedding, keys: Array, spec: EmbedderSpec) -> PartScores:
    """Return the scores of the query's parts. keys: all keys of one vector as rows [n, row_size]."""
    images, texts = keys[:, : spec.image_size], keys[:, spec.image_size :]
    has_image, has_text = images.any(axis=1), texts.any(axis=1)
    beyond = (has_image & (query.image is None)) | (has_text & (query.text is None))
    return PartScores(
        _best_cosine(query.image, images[has_image]), _best_cosine(query.text, texts[has_text]), not beyond.all()
    )


def _best_cosine(part: Array | None, keys: Array) -> float | None:
    return None if part is None or not len(keys) else float((keys @ part).max())


def unit(vector: Array) -> Array:
    """Return the vector scaled to length 1. Raises InvalidQuery for a zero or non-finite vector."""
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0.0:
        raise InvalidQuery("An embedding is zero or not finite.", "Use another text or image.")
    return (vector / norm).astype(np.float32)


def score(query: TaskEmbedding, key: TaskEmbedding, spec: EmbedderSpec) -> float:
    """Return the mean cosine over the query's parts, in [-1, 1]; a part that the key lacks counts as 0."""
    return float(query.row(spec) @ key.row(spec)) / query.parts
