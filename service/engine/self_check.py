"""Shows at start that a decoder computes what the model itself does; else the worker does not become ready."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from vlibrary.domain.errors import UnsupportedModel
from vlibrary.domain.vector import SITES, Edit, SteeringVector
from vlibrary.engine.decoder import Decoder
from vlibrary.engine.failures import catch
from vlibrary.engine.request import EncodedPrompt, encode_prompt
from vlibrary.models.lvlm import Lvlm
from vlibrary.steering.slot_table import EMPTY

# How far logits may be apart, relative to the largest: what another order of summing costs.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def check_decoder(lvlm: Lvlm, decoder: Decoder) -> None:
    """One prompt with a picture, two tokens, against the model's own generate().

    Raises UnsupportedModel when the logits differ or the decoder fails: the model keeps something between tokens that
    the decoder does not know of.
    """
    error = catch(partial(_compare, lvlm, decoder))
    if error:
        raise UnsupportedModel(
            f"{lvlm.spec.architecture} cannot be batched in flight ({error}).", "Serve it with VLIBRARY_ENGINE=static."
        ) from error


@torch.inference_mode()
def check_steering(lvlm: Lvlm, decoder: Decoder, reference: Decoder) -> None:
    """Three equal prompts, the first unsteered, the others steered: a step of one decoder against one of another.

    Raises UnsupportedModel when they differ or when vectors change nothing: hooks can be lost silently.
    """
    slots = [EMPTY, *(lvlm.table.pin(_vector(lvlm, seed)) for seed in (1, 2))]
    prompt = encode_prompt(lvlm, lvlm.image_probe, max_new_tokens=1)
    try:
        got, wanted = (_second(one, [prompt] * len(slots), slots, token=0) for one in (decoder, reference))
    finally:
        lvlm.table.unpin(slots[1:])
    if not _alike(got, wanted) or torch.equal(got[0], got[1]) or torch.equal(got[1], got[2]):
        raise UnsupportedModel(
            f"{lvlm.spec.architecture} compiled answers differently or does not react to vectors.",
            "Start the worker without VLIBRARY_COMPILE.",
        )


@torch.inference_mode()
def _compare(lvlm: Lvlm, decoder: Decoder) -> None:
    prompt = encode_prompt(lvlm, lvlm.image_probe, max_new_tokens=2)
    settings = GenerationConfig(
        max_new_tokens=2, min_new_tokens=2, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    own: Any = lvlm.model.generate(**lvlm.to_device(prompt.inputs), generation_config=settings)
    got = _second(decoder, [prompt], [EMPTY], token=int(own.sequences[0, -2]))
    if not _alike(got, own.logits[1]):
        raise ValueError("its second token's logits are not those of its own generate()")


def _second(decoder: Decoder, prompts: list[EncodedPrompt], slots: list[int], token: int) -> Tensor:
    """The logits [B, V] after the prompts and this token; the decoder is empty again afterwards."""
    decoder.join(decoder.prefill(prompts, slots))
    logits = decoder.decode([token] * len(slots), slots)
    for row in reversed(range(len(slots))):
        decoder.leave(row, scrub=True)
    return logits


def _alike(got: Tensor, wanted: Tensor) -> bool:
    allowed = _TOLERANCE.get(got.dtype, 1e-4) * wanted.float().abs().max()
    return bool((got.float() - wanted.float()).abs().max() <= allowed)


def _vector(lvlm: Lvlm, seed: int) -> SteeringVector:
    """One direction at every site, as long as a stream of this width may well be."""
    shape = lvlm.spec.layers, lvlm.spec.hidden_size
    direction = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    edits = {site: Edit(direction, np.ones(lvlm.spec.layers, np.float32)) for site in SITES}
    return SteeringVector(lvlm.spec, edits, "canary")
