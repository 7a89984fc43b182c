"""Which decoder a model gets."""

from __future__ import annotations

import torch

from vlibrary.domain.errors import UnsupportedModel
from vlibrary.engine.decoder import Decoder, SlabDecoder, SoloDecoder
from vlibrary.engine.image_features import ImageFeatures
from vlibrary.engine.self_check import check_steering
from vlibrary.models.lvlm import Lvlm


def open_decoder(lvlm: Lvlm, *, most_columns: int, feature_bytes: int, compiled: bool) -> Decoder:
    """Rows together where they can be joined exactly, one at a time where not.

    Gated cross-attention (Mllama, Idefics1) needs more than keys and values at every token, and treats a text without
    a picture differently beside one with a picture. Raises UnsupportedModel when it shall be compiled and cannot.
    """
    if lvlm.model._supports_mm_encoder_outputs() and hasattr(lvlm.model.base_model, "get_image_features"):
        features = ImageFeatures(lvlm.model, feature_bytes)
        decoder = SlabDecoder(lvlm, features, most_columns=most_columns)
        return _compiled(lvlm, decoder, features, most_columns) if compiled else decoder
    if compiled:
        raise UnsupportedModel(
            f"{lvlm.spec.architecture} decodes one row at a time and cannot be compiled.",
            "Start the worker without VLIBRARY_COMPILE.",
        )
    return SoloDecoder(lvlm)


def _compiled(lvlm: Lvlm, eager: SlabDecoder, features: ImageFeatures, most_columns: int) -> SlabDecoder:
    """A decoder whose steps torch compiles, once for all batch sizes, cache widths and vectors.

    A compiled model ignores hooks that come later and may lose those that were there, silently: so one step is compared
    with an eager one.
    """
    forward = torch.compile(lvlm.model.forward, dynamic=True)
    decoder = SlabDecoder(lvlm, features, most_columns=most_columns, forward=forward)
    check_steering(lvlm, decoder, eager)
    return decoder
