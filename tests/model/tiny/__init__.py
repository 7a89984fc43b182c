"""Tiny random vision-language models with the classes and processors of transformers.

Hidden size 64, three decoder layers, images of 32 × 32. Weights are large enough that every block matters.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.model.tiny import pil, video
from tests.model.tiny.embedders import EMBEDDERS, clip
from tests.model.tiny.parts import (
    CHAT_TEMPLATE,
    CONTEXT,
    HIDDEN,
    LAYERS,
    Family,
    build_tokenizer,
    hf,
    text_settings,
    vision_settings,
    vocabulary,
)
from tests.model.tiny.pil import llava, llava_next
from tests.model.tiny.saving import random_model, randomise, restrict_to_printable, save, save_embedder

WITHOUT_TORCHVISION: dict[str, Callable[[], Family]] = {
    "idefics2": pil.idefics2,
    "llava_next": pil.llava_next,
    "gemma3": pil.gemma3,
    "llava": pil.llava,
    "idefics3": pil.idefics3,
    "paligemma": pil.paligemma,
    "mllama": pil.mllama,
    "idefics": pil.idefics1,
}
WITH_TORCHVISION: dict[str, Callable[[], Family]] = {
    "smolvlm": video.smolvlm,
    "llava_onevision": video.llava_onevision,
    "internvl": video.internvl,
    "mistral3": video.mistral3,
    "qwen2_vl": video.qwen2_vl,
    "qwen2_5_vl": video.qwen2_5_vl,
    "qwen3_vl": video.qwen3_vl,
}
FAMILIES = WITHOUT_TORCHVISION | WITH_TORCHVISION

__all__ = [
    "CHAT_TEMPLATE",
    "CONTEXT",
    "EMBEDDERS",
    "FAMILIES",
    "HIDDEN",
    "LAYERS",
    "WITHOUT_TORCHVISION",
    "WITH_TORCHVISION",
    "Family",
    "build_tokenizer",
    "clip",
    "hf",
    "llava",
    "llava_next",
    "random_model",
    "randomise",
    "restrict_to_printable",
    "save",
    "save_embedder",
    "text_settings",
    "vision_settings",
    "vocabulary",
]
