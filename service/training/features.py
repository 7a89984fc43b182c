"""Embeddings of training examples, from which query sets, task keys and thresholds are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlibrary.domain.example import Example
from vlibrary.domain.vector import Array
from vlibrary.models.embedder import Embedder
from vlibrary.training.progress import Progress, Report, ignore

BATCH = 64


@dataclass(frozen=True, eq=False)
class Features:
    """Embeddings of N queries: images [N, image_size] and texts [N, text_size], float32, rows of unit length.

    truncated: how many of the texts are longer than the embedder reads, so that their embedding lacks the end.
    """

    images: Array
    texts: Array
    truncated: int = 0

    @property
    def joined(self) -> Array:
        """[image ‖ text] per query, [N, image_size + text_size]."""
        return np.concatenate([self.images, self.texts], axis=1)

    def __add__(self, other: Features) -> Features:
        """Return the queries of both, these first."""
        images, texts = np.concatenate([self.images, other.images]), np.concatenate([self.texts, other.texts])
        return Features(images, texts, self.truncated + other.truncated)

    def __len__(self) -> int:
        return len(self.images)


def embed_examples(embedder: Embedder, examples: Sequence[Example], report: Report = ignore) -> Features:
    """Embed images and questions, but not answers, which a query does not have. Raises InvalidImage."""
    # Data sets repeat their questions; each distinct question is embedded once.
    questions, places = np.unique([example.question for example in examples], return_inverse=True)
    texts = [embedder.embed_texts(questions[at : at + BATCH].tolist()) for at in range(0, len(questions), BATCH)]
    images = []
    for start in range(0, len(examples), BATCH):
        images.append(embedder.embed_images([example.image for example in examples[start : start + BATCH]]))
        report(Progress("embed", min(start + BATCH, len(examples)), len(examples)))
    truncated = sum(embedder.truncates(question) for question in questions[places])
    return Features(np.concatenate(images), np.concatenate(texts)[places], truncated)
