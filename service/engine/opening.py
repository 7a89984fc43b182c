"""Which decoder a model gets."""

from __future__ import annotations

from service.domain.errors import UnsupportedModel
from service.engine.compiled import compiled_decoder
from service.engine.decoder import Decoder, SlabDecoder, SoloDecoder
from service.engine.features import ImageFeatures
from service.steering.lvlm import Lvlm


def open_decoder(lvlm: Lvlm, *, most_columns: int, feature_bytes: int, compiled: bool) -> Decoder:
    """Rows together where they can be joined exactly, one at a time where not.

    Gated cross-attention (Mllama, Idefics1) needs more than keys and values at every token, and treats a text without
    a picture differently beside one with a picture. Raises UnsupportedModel when it shall be compiled and cannot.
    """
    if lvlm.model._supports_mm_encoder_outputs():
        features = ImageFeatures(lvlm.model, feature_bytes)
        opened = compiled_decoder if compiled else SlabDecoder
        return opened(lvlm, features, most_columns=most_columns)
    if compiled:
        raise UnsupportedModel(
            f"{lvlm.spec.architecture} decodes one row at a time and cannot be compiled.",
            "Start the worker without VLIBRARY_COMPILE.",
        )
    return SoloDecoder(lvlm)
