"""Tiny query embedders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.model.tiny.parts import (
    HIDDEN,
    IMAGE,
    Family,
    build_tokenizer,
    clip_pixels,
    hf,
    text_settings,
    vision_settings,
)


def _towers(vision_type: str, text_type: str) -> dict[str, dict[str, Any]]:
    text = text_settings(build_tokenizer(), model_type=text_type, max_position_embeddings=16)
    return {"text_config": text, "vision_config": vision_settings(vision_type) | {"hidden_size": HIDDEN}}


def clip() -> Family:
    config = hf.CLIPConfig(**_towers("clip_vision_model", "clip_text_model"), projection_dim=24)
    return config, hf.CLIPProcessor(hf.CLIPImageProcessorPil(**clip_pixels()), build_tokenizer())


def siglip() -> Family:
    config = hf.SiglipConfig(**_towers("siglip_vision_model", "siglip_text_model"))
    pixels = hf.SiglipImageProcessorPil(size={"height": IMAGE, "width": IMAGE})
    return config, hf.SiglipProcessor(pixels, build_tokenizer())


EMBEDDERS: dict[str, Callable[[], Family]] = {"clip": clip, "siglip": siglip}
