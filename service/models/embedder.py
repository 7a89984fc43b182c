"""The query embedder: a model with CLIP's interface that maps images and texts to unit vectors."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin

from vlibrary.domain.errors import UnsupportedModel
from vlibrary.domain.query import DEFAULT_IMAGE_FORMATS, EmbedderSpec, Query, TaskEmbedding, unit
from vlibrary.domain.vector import Array
from vlibrary.formats.images import decode_images
from vlibrary.models.call_batches import CallBatches
from vlibrary.models.embedding_cache import Embedded, EmbeddingCache, image_key, text_key
from vlibrary.models.small_encoder import register_encoder
from vlibrary.steering.fingerprint import fingerprint

T = TypeVar("T")

# Images or texts of one forward pass, and queries that share passes.
MAX_ROWS = 32
# Windows of a longer text that are embedded; what follows them is left out.
MAX_WINDOWS = 32
# Texts of different lengths, both much shorter than the context.
_PROBE = ("a", "a b")
_SAME = 1e-5


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What one call embeds: images after the processor, each a batch of one, and token ids of texts."""

    pixels: Sequence[Mapping[str, Tensor]]
    texts: Sequence[Sequence[int]]


class Embedder:
    """A frozen embedder in float32, for many threads. Queries of different threads share forward passes.

    A row's embedding depends on the rest of its batch only by rounding, less than 1e-6 per score, so that a score this
    close to a threshold can be decided either way. cache: embeddings of earlier queries. batches: the shared passes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        embedder_id: str,
        cache_bytes: int = 0,
        image_formats: Sequence[str] = DEFAULT_IMAGE_FORMATS,
    ) -> None:
        """Raise UnsupportedModel if the model cannot embed both images and texts.

        cache_bytes: size of the cache. image_formats: those of IMAGE_FORMATS that queries may contain.
        """
        self._model: Any = model.eval().requires_grad_(False)
        self._processor: Any = processor
        self._image_formats = tuple(image_formats)
        self._tokenizer: Any = self._processor.tokenizer
        self._tokenizer_lock = threading.Lock()  # a tokenizer stores its truncation settings during a call
        self.cache = EmbeddingCache(cache_bytes)
        self.batches = CallBatches(self._run, MAX_ROWS)
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise UnsupportedModel(
                f"{type(model).__name__} does not embed both images and texts.",
                "Use a CLIP or SigLIP model.",
            )
        self._max_tokens: int = model.config.text_config.max_position_embeddings
        special = self._tokenizer.num_special_tokens_to_add()
        self._text_limit: int = MAX_WINDOWS * (self._max_tokens - special) + special
        # SigLIP was trained on texts padded to the full length; CLIP ignores the padding, which then is wasted time.
        probe = [self._tokenize(text)[0][0] for text in _PROBE]
        full, short = (self._encode_texts(probe, pad_fully=pad_fully) for pad_fully in (True, False))
        self._pad_fully = bool(np.abs(full - short).max() > _SAME * np.abs(full).max())
        self.spec = self._build_spec(embedder_id, text_size=full.shape[1])

    @classmethod
    def load(
        cls,
        folder_or_id: str | Path,
        device: str = "cpu",
        *,
        embedder_id: str | None = None,
        cache_bytes: int = 0,
        image_formats: Sequence[str] = DEFAULT_IMAGE_FORMATS,
    ) -> Embedder:
        """Load an embedder from a folder or the Hugging Face hub.

        image_formats: those of IMAGE_FORMATS that queries may contain.
        Raises UnsupportedModel if it is not a CLIP-like model, OSError if it cannot be read.
        """
        register_encoder()
        # As in load_processor: a fixed image backend, so that an image has the same embedding on every machine.
        processor = AutoProcessor.from_pretrained(folder_or_id, backend="pil")
        model: Any = AutoModel.from_pretrained(folder_or_id, dtype=torch.float32)
        name = embedder_id or (Path(folder_or_id).name if Path(folder_or_id).is_dir() else str(folder_or_id))
        return cls(model.to(device), processor, embedder_id=name, cache_bytes=cache_bytes, image_formats=image_formats)

    def embed(self, query: Query) -> TaskEmbedding:
        """Embed the query's images and text as one unit vector each; several images are averaged and normalized.

        The two parts stay separate; `TaskEmbedding.row` joins them for the index. A text longer than the model's
        context is embedded in windows: see `embed_texts`. Raises InvalidImage, and InvalidQuery if an embedding is zero
        or not finite.
        """
        images = [image_key(image) for image in query.images]
        texts = {} if query.text is None else {text_key(query.text): query.text}
        found = self.cache.find([*images, *texts])
        new_images = {key: image for key, image in zip(images, query.images, strict=True) if key not in found}
        new_texts = {key: text for key, text in texts.items() if key not in found}
        if new_images or new_texts:
            computed = self._embed(list(new_images.values()), list(new_texts.values()))
            new = dict(zip([*new_images, *new_texts], computed, strict=True))
            self.cache.add(new)
            found |= new
        image = unit(np.mean([found[key].row for key in images], axis=0)) if images else None
        text = next((found[key] for key in texts), None)
        if text is None:
            return TaskEmbedding(image=image)
        return TaskEmbedding(image, text.row, text.tokens, self._text_limit)

    def embed_images(self, images: Sequence[bytes]) -> Array:
        """Return the unit embeddings [N, image_size] of encoded images. Raises InvalidImage."""
        return np.stack([one.row for one in self._embed(images, ())])

    def embed_texts(self, texts: Sequence[str]) -> Array:
        """Return the unit embeddings [N, text_size] of texts.

        A text longer than the model's context is split into windows of that length. Its embedding is their mean,
        weighted by their lengths, so that training questions and queries are embedded alike. (The closest window would
        give unrelated texts higher scores, the longer they are: docs/lab-log.md.) Tokens after MAX_WINDOWS windows have
        no influence.
        """
        return np.stack([one.row for one in self._embed((), texts)])

    def truncates(self, text: str) -> bool:
        """Return whether the text has more tokens than MAX_WINDOWS windows."""
        return self._tokenize(text)[1] > self._text_limit

    def _embed(self, images: Sequence[bytes], texts: Sequence[str]) -> list[Embedded]:
        """Return the embeddings of the images, then of the texts; other threads may share the model's passes."""
        pixels = [
            self._processor(images=picture, return_tensors="pt")
            for picture in decode_images(images, self._image_formats)
        ]
        tokenized = [self._tokenize(text) for text in texts]
        rows = iter(self.batches.call(_Inputs(pixels, [window for windows, _ in tokenized for window in windows])))
        return [
            *(Embedded(unit(row)) for row in islice(rows, len(pixels))),
            *(Embedded(_join(windows, list(islice(rows, len(windows)))), count) for windows, count in tokenized),
        ]

    def _tokenize(self, text: str) -> tuple[list[list[int]], int]:
        """Return the token ids of the text's windows, and the number of tokens of the whole text."""
        with self._tokenizer_lock:
            ids: list[int] = self._tokenizer(text, verbose=False)["input_ids"]
            if len(ids) <= self._max_tokens:
                return [ids], len(ids)
            # A second time, because each window has its own start and end tokens.
            windows: list[list[int]] = self._tokenizer(
                text, truncation=True, max_length=self._max_tokens, return_overflowing_tokens=True
            )["input_ids"]
        return windows[:MAX_WINDOWS], len(ids)

    def _run(self, calls: Sequence[_Inputs]) -> list[list[Array]]:
        """Return, for each call, the model's output for each image, then for each text; run by one thread at a time."""
        images = iter(self._encode_images([one for call in calls for one in call.pixels]))
        texts = iter(self._encode_texts([ids for call in calls for ids in call.texts], pad_fully=self._pad_fully))
        return [[*islice(images, len(call.pixels)), *islice(texts, len(call.texts))] for call in calls]

    def _encode_images(self, pixels: Sequence[Mapping[str, Tensor]]) -> Array:
        passes = [{name: torch.cat([one[name] for one in rows]) for name in rows[0]} for rows in _split(pixels)]
        return self._encode(self._model.get_image_features, passes)

    def _encode_texts(self, texts: Sequence[Sequence[int]], *, pad_fully: bool) -> Array:
        passes = [self._pad(rows, pad_fully=pad_fully) for rows in _split(texts)]
        return self._encode(self._model.get_text_features, passes)

    def _pad(self, rows: Sequence[Sequence[int]], *, pad_fully: bool) -> dict[str, Tensor]:
        """Return the token ids as one tensor [N, T]."""
        padded: dict[str, Tensor] = self._tokenizer.pad(
            {"input_ids": rows},
            padding="max_length" if pad_fully else "longest",
            max_length=self._max_tokens,
            return_tensors="pt",
            verbose=False,
        )
        return dict(padded)

    @torch.inference_mode()
    def _encode(self, get_features: Any, passes: Sequence[Mapping[str, Tensor]]) -> Array:
        """Run the image or text encoder and return its outputs [N, d]."""
        device = self._model.device
        outputs = [
            get_features(**{name: value.to(device) for name, value in one.items()}).pooler_output.float().cpu().numpy()
            for one in passes
        ]
        return np.concatenate(outputs) if outputs else np.zeros((0, 0), np.float32)

    def _build_spec(self, embedder_id: str, text_size: int) -> EmbedderSpec:
        # Configurations name the sizes differently: they are measured.
        blank = self._encode_images([self._processor(images=Image.new("RGB", (8, 8)), return_tensors="pt")])
        architecture, image_size = type(self._model).__name__, blank.shape[1]
        sizes = [text_size] if text_size == image_size else [image_size, text_size]
        return EmbedderSpec(
            embedder_id=embedder_id,
            fingerprint=fingerprint(self._model, [architecture, *sizes]),
            image_size=image_size,
            text_size=text_size,
        )


def _join(windows: Sequence[Sequence[int]], rows: Sequence[Array]) -> Array:
    """Return the embedding of a text from those of its windows."""
    if len(rows) == 1:
        return unit(rows[0])
    return unit(np.average([unit(row) for row in rows], axis=0, weights=[len(window) for window in windows]))


def _split(rows: Sequence[T]) -> list[Sequence[T]]:
    """Split the rows into passes of at most MAX_ROWS."""
    return [rows[start : start + MAX_ROWS] for start in range(0, len(rows), MAX_ROWS)]
