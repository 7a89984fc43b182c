"""The query embedder: a CLIP or SigLIP model that maps images and texts to unit vectors in one space."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin

from vlibrary.domain.errors import UnsupportedModel
from vlibrary.domain.query import EmbedderSpec, Query, TaskEmbedding, unit
from vlibrary.domain.vector import Array
from vlibrary.formats.images import decode_images
from vlibrary.steering.fingerprint import fingerprint


class Embedder:
    """A frozen embedder in float32. Thread-safe: a lock serialises the calls."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, *, embedder_id: str) -> None:
        """Raise UnsupportedModel if the model cannot embed both images and texts."""
        self._model: Any = model.eval().requires_grad_(False)
        self._processor: Any = processor
        self._lock = threading.Lock()
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise UnsupportedModel(
                f"{type(model).__name__} does not embed both images and texts.",
                "Use a CLIP or SigLIP model.",
            )
        self._max_tokens: int = model.config.text_config.max_position_embeddings
        self.spec = self._build_spec(embedder_id)

    @classmethod
    def load(cls, folder_or_id: str | Path, device: str = "cpu", *, embedder_id: str | None = None) -> Embedder:
        """Load an embedder from a folder or the Hugging Face hub.

        Raises UnsupportedModel if it is not a CLIP-like model, OSError if it cannot be read.
        """
        # As in load_processor: a fixed image backend, so that an image has the same embedding on every machine.
        processor = AutoProcessor.from_pretrained(folder_or_id, backend="pil")
        model: Any = AutoModel.from_pretrained(folder_or_id, dtype=torch.float32)
        name = embedder_id or (Path(folder_or_id).name if Path(folder_or_id).is_dir() else str(folder_or_id))
        return cls(model.to(device), processor, embedder_id=name)

    def embed(self, query: Query) -> TaskEmbedding:
        """Embed the query's images and text as one unit vector each; several images are averaged and normalized.

        The two parts stay separate; `TaskEmbedding.row` joins them for the index.

        Raises InvalidImage, and InvalidQuery if an embedding is zero or not finite.
        """
        image = unit(self.embed_images(query.images).mean(axis=0)) if query.images else None
        if query.text is None:
            return TaskEmbedding(image=image)
        return TaskEmbedding(
            image,
            self.embed_texts([query.text])[0],
            text_tokens=self._count_tokens(query.text),
            text_limit=self._max_tokens,
        )

    def embed_images(self, images: Sequence[bytes]) -> Array:
        """Return the unit embeddings [N, image_size] of encoded images. Raises InvalidImage."""
        pixels = decode_images(images)
        with self._lock:
            return self._encode(self._model.get_image_features, self._processor(images=pixels, return_tensors="pt"))

    def embed_texts(self, texts: Sequence[str]) -> Array:
        """Return the unit embeddings [N, text_size] of texts; a text longer than the model's context is truncated."""
        with self._lock:
            # SigLIP was trained on texts padded to the full length; CLIP ignores the padding.
            tokens = self._processor(
                text=list(texts),
                padding="max_length",
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            )
            return self._encode(self._model.get_text_features, tokens)

    def _count_tokens(self, text: str) -> int:
        with self._lock:
            # verbose: without a warning about texts longer than the context
            return len(self._processor.tokenizer(text, verbose=False)["input_ids"])

    @torch.no_grad()
    def _encode(self, get_features: Any, inputs: Any) -> Array:
        """Run the image or text encoder and return its outputs as unit vectors [N, d]."""
        rows = get_features(**inputs.to(self._model.device)).pooler_output
        return np.stack([unit(row) for row in rows.float().cpu().numpy()])

    def _build_spec(self, embedder_id: str) -> EmbedderSpec:
        # Images and texts share one space, and configurations name its width differently: measure it on a text.
        architecture, width = type(self._model).__name__, self.embed_texts(["width"]).shape[1]
        return EmbedderSpec(
            embedder_id=embedder_id,
            fingerprint=fingerprint(self._model, [architecture, width]),
            image_size=width,
            text_size=width,
        )
