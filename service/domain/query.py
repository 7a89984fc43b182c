"""What is asked of the library, as numbers: an incoming query, its embedding, and how keys are scored.

A query has an image, a text, or both. Each part is embedded on its own and L2-normalised; a task key has the same two
parts. The score of a key is the mean, over the parts that the QUERY fills, of the parts' cosines. That is one inner
product of the concatenated rows divided by the number of parts asked, so that an inner-product index finds it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from vlibrary.domain.errors import InvalidQuery
from vlibrary.domain.vector import Array


class Modality(StrEnum):
    """Which parts a query fills; thresholds are calibrated for each, since their scores differ."""

    TEXT = "text"
    IMAGE = "image"
    IMAGE_TEXT = "image_text"


@dataclass(frozen=True)
class Query:
    """An incoming question. images: encoded pictures; several are embedded as their mean direction."""

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
    """Which embedder made a key; keys of different embedders cannot be compared.

    image_size, text_size: length of the two parts.
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
    """A query or a task key: up to two unit vectors, image [image_size] and text [text_size], float32."""

    image: Array | None = None
    text: Array | None = None

    @property
    def parts(self) -> int:
        return (self.image is not None) + (self.text is not None)

    def row(self, spec: EmbedderSpec) -> Array:
        """The concatenation [image ‖ text] with zeros for a missing part, shape [row_size]."""
        image = np.zeros(spec.image_size, np.float32) if self.image is None else self.image
        text = np.zeros(spec.text_size, np.float32) if self.text is None else self.text
        return np.concatenate([image, text]).astype(np.float32)


def unit(vector: Array) -> Array:
    """The vector at length 1; a zero vector has no direction and is an error."""
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0.0:
        raise InvalidQuery("An embedding has no direction (zero or not finite).", "Use another text or image.")
    return (vector / norm).astype(np.float32)


def score(query: TaskEmbedding, key: TaskEmbedding, spec: EmbedderSpec) -> float:
    """Mean cosine over the query's parts, in [-1, 1]; a part that the key lacks counts 0."""
    return float(query.row(spec) @ key.row(spec)) / query.parts
