"""Loading a model's processor so that an image gives the same pixels on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoProcessor, ProcessorMixin

from vlibrary.domain.errors import UnsupportedModel


def load_processor(folder_or_id: str | Path) -> ProcessorMixin:
    """Load a processor from a folder or the Hugging Face hub, with the Pillow image backend.

    The pixels of the two image backends can differ by one level, and the default depends on the installed packages.
    Raises UnsupportedModel if the processor needs a missing package, OSError if it cannot be read.
    """
    try:
        processor: ProcessorMixin = _load(folder_or_id)
    except (ImportError, AttributeError) as error:  # without torchvision, transformers raises AttributeError
        raise UnsupportedModel(
            f"The model's processor needs a package that is not installed: {error}",
            "Install it. Processors that also read videos need the torchvision release that matches torch.",
        ) from error
    return processor


def _load(folder_or_id: str | Path) -> Any:
    """Load the processor; one with a video part, which has no Pillow backend, gets a Pillow image processor."""
    try:
        return AutoProcessor.from_pretrained(folder_or_id, backend="pil")
    except ImportError:
        processor: Any = AutoProcessor.from_pretrained(folder_or_id)
        processor.image_processor = AutoImageProcessor.from_pretrained(folder_or_id, backend="pil")
        return processor


def check_processor(processor: Any) -> None:
    """Raise UnsupportedModel if the processor has no tokenizer or no image processor."""
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            raise UnsupportedModel(
                f"The model's processor has no {part}.", "Use an instruction-tuned image-text-to-text model."
            )
