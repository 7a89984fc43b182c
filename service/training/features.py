"""Examples as the query embedder sees them: what query sets, task keys and thresholds are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlibrary.domain.example import Example
from vlibrary.domain.vector import Array
from vlibrary.models.embedder import Embedder
from vlibrary.training.progress import Progress, Report, silent

BATCH = 64


@dataclass(frozen=True, eq=False)
class Features:
    """images [N, image_size] and texts [N, text_size] of N examples' queries, float32, every row of length 1."""

    images: Array
    texts: Array

    @property
    def joined(self) -> Array:
        """[image ‖ text] per example, [N, image_size + text_size]."""
        return np.concatenate([self.images, self.texts], axis=1)

    def __len__(self) -> int:
        return len(self.images)


def embed_examples(embedder: Embedder, examples: Sequence[Example], report: Report = silent) -> Features:
    """Embed images and questions, never answers: a query has none. Raises InvalidImage."""
    # Data sets repeat their questions: each is embedded once.
    questions, places = np.unique([example.question for example in examples], return_inverse=True)
    texts = [embedder.embed_texts(questions[at : at + BATCH].tolist()) for at in range(0, len(questions), BATCH)]
    images = []
    for start in range(0, len(examples), BATCH):
        images.append(embedder.embed_images([example.image for example in examples[start : start + BATCH]]))
        report(Progress("embed", min(start + BATCH, len(examples)), len(examples)))
    return Features(np.concatenate(images), np.concatenate(texts)[places])
