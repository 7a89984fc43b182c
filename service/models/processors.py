"""A model's processor, loaded so that the same picture gives the same pixels on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoProcessor, ProcessorMixin

from vlibrary.domain.errors import UnsupportedModel


def load_processor(folder_or_id: str | Path) -> ProcessorMixin:
    """The processor in a folder or on the hub, with the image back end that needs Pillow only.

    The two image back ends differ by a grey level, and which one is the default depends on what is installed.
    Raises UnsupportedModel when it needs a package that is not installed, OSError when it cannot be read.
    """
    try:
        processor: ProcessorMixin = _load(folder_or_id)
    except (ImportError, AttributeError) as error:  # the latter is what transformers stumbles over without torchvision
        raise UnsupportedModel(
            f"The model's processor needs a package that is not here: {error}",
            "Install it; processors that read videos too need the torchvision that belongs to this torch.",
        ) from error
    return processor


def _load(folder_or_id: str | Path) -> Any:
    """Video processors have one back end only, so a processor with one cannot be asked for the other as a whole."""
    try:
        return AutoProcessor.from_pretrained(folder_or_id, backend="pil")
    except ImportError:
        processor: Any = AutoProcessor.from_pretrained(folder_or_id)
        processor.image_processor = AutoImageProcessor.from_pretrained(folder_or_id, backend="pil")
        return processor


def check_processor(processor: Any) -> None:
    """Raises UnsupportedModel when it has no tokenizer or no image processor."""
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            raise UnsupportedModel(
                f"The model's processor has no {part}.", "Use an instruction-tuned image-text-to-text model."
            )
