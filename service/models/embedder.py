"""The query embedder: pictures and texts as directions in one space (CLIP and SigLIP classes)."""

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
    """One frozen embedder in float32; safe for many calling threads, which wait for each other."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, *, embedder_id: str) -> None:
        """Raises UnsupportedModel when the model has no image or text features."""
        self._model: Any = model.eval().requires_grad_(False)
        self._processor: Any = processor
        self._lock = threading.Lock()
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise UnsupportedModel(
                f"{type(model).__name__} does not embed both images and texts.",
                "Use a CLIP or SigLIP model.",
            )
        self._max_tokens: int = model.config.text_config.max_position_embeddings
        self.spec = self._spec(embedder_id)

    @classmethod
    def load(cls, folder_or_id: str | Path, device: str = "cpu", *, embedder_id: str | None = None) -> Embedder:
        """The embedder in a folder or on the hub.

        Raises UnsupportedModel when it is not of the CLIP kind, OSError when it cannot be read.
        """
        # See Lvlm.load: one image back end, so that the same picture always has the same embedding.
        processor = AutoProcessor.from_pretrained(folder_or_id, backend="pil")
        model: Any = AutoModel.from_pretrained(folder_or_id, dtype=torch.float32)
        name = embedder_id or (Path(folder_or_id).name if Path(folder_or_id).is_dir() else str(folder_or_id))
        return cls(model.to(device), processor, embedder_id=name)

    def embed(self, query: Query) -> TaskEmbedding:
        """The query's parts as unit vectors; several images become their mean direction.

        Raises InvalidImage, and InvalidQuery when a part has no direction.
        """
        image = unit(self.embed_images(query.images).mean(axis=0)) if query.images else None
        text = None if query.text is None else self.embed_texts([query.text])[0]
        return TaskEmbedding(image=image, text=text)

    def embed_images(self, images: Sequence[bytes]) -> Array:
        """Unit rows [N, image_size] of encoded pictures. Raises InvalidImage."""
        pictures = decode_images(images)
        with self._lock:
            return self._rows(self._model.get_image_features, self._processor(images=pictures, return_tensors="pt"))

    def embed_texts(self, texts: Sequence[str]) -> Array:
        """Unit rows [N, text_size]; what exceeds the model's length is cut off."""
        with self._lock:
            # SigLIP was trained on texts padded to full length, and CLIP does not mind.
            tokens = self._processor(
                text=list(texts),
                padding="max_length",
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            )
            return self._rows(self._model.get_text_features, tokens)

    @torch.no_grad()
    def _rows(self, features: Any, inputs: Any) -> Array:
        rows = features(**inputs.to(self._model.device)).pooler_output
        return np.stack([unit(row) for row in rows.float().cpu().numpy()])

    def _spec(self, embedder_id: str) -> EmbedderSpec:
        """Both parts lie in one space, so one probe tells their width; configurations name it in many ways."""
        architecture, width = type(self._model).__name__, self.embed_texts(["width"]).shape[1]
        return EmbedderSpec(
            embedder_id=embedder_id,
            fingerprint=fingerprint(self._model, [architecture, width]),
            image_size=width,
            text_size=width,
        )
