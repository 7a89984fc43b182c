"""Checks at start that a decoder computes what the model itself does; otherwise the worker does not become ready."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from vlibrary.domain.errors import UnsupportedModel
from vlibrary.domain.vector import SITES, Edit, SteeringVector
from vlibrary.engine.decoder import Decoder
from vlibrary.engine.request import EncodedPrompt, encode_prompt
from vlibrary.models.lvlm import Lvlm
from vlibrary.steering.slot_table import EMPTY

# Largest difference of logits relative to the largest logit: the effect of another order of summation.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def check_decoder(lvlm: Lvlm, decoder: Decoder) -> None:
    """Compare two tokens after a prompt with an image with the model's own generate().

    Raises UnsupportedModel when the logits differ or the decoder fails, because the model carries a state between
    tokens that the decoder does not.
    """
    try:
        _compare(lvlm, decoder)
    except Exception as error:
        raise UnsupportedModel(
            f"{lvlm.spec.architecture} cannot be batched in flight ({error}).", "Serve it with VLIBRARY_ENGINE=static."
        ) from error


@torch.inference_mode()
def check_steering(lvlm: Lvlm, decoder: Decoder, reference: Decoder) -> None:
    """Compare a decode step with the reference decoder's, on three equal prompts of which two are steered.

    Raises UnsupportedModel when the steps differ or when vectors change nothing: a compiled model can lose its hooks.
    """
    slots = [EMPTY, *(lvlm.table.pin(_vector(lvlm, seed)) for seed in (1, 2))]
    prompt = encode_prompt(lvlm, lvlm.image_probe, max_new_tokens=1)
    try:
        actual, expected = (_second_logits(one, [prompt] * len(slots), slots, token=0) for one in (decoder, reference))
    finally:
        lvlm.table.unpin(slots[1:])
    if not _close(actual, expected) or torch.equal(actual[0], actual[1]) or torch.equal(actual[1], actual[2]):
        raise UnsupportedModel(
            f"{lvlm.spec.architecture} computes other logits when compiled, or does not react to vectors.",
            "Start the worker without VLIBRARY_COMPILE.",
        )


@torch.inference_mode()
def _compare(lvlm: Lvlm, decoder: Decoder) -> None:
    prompt = encode_prompt(lvlm, lvlm.image_probe, max_new_tokens=2)
    settings = GenerationConfig(
        max_new_tokens=2, min_new_tokens=2, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    reference: Any = lvlm.model.generate(**lvlm.to_device(prompt.inputs), generation_config=settings)
    actual = _second_logits(decoder, [prompt], [EMPTY], token=int(reference.sequences[0, -2]))
    if not _close(actual, reference.logits[1]):
        raise ValueError("the logits of its second token differ from those of generate()")


def _second_logits(decoder: Decoder, prompts: list[EncodedPrompt], slots: list[int], token: int) -> Tensor:
    """Return the logits [B, V] after the prompts and this token, and empty the decoder."""
    decoder.join(decoder.prefill(prompts, slots))
    logits = decoder.decode([token] * len(slots), slots)
    for row in reversed(range(len(slots))):
        decoder.leave(row, scrub=True)
    return logits


def _close(actual: Tensor, expected: Tensor) -> bool:
    allowed = _TOLERANCE.get(actual.dtype, 1e-4) * expected.float().abs().max()
    return bool((actual.float() - expected.float()).abs().max() <= allowed)


def _vector(lvlm: Lvlm, seed: int) -> SteeringVector:
    """Return a vector with a random direction at every site."""
    shape = lvlm.spec.layers, lvlm.spec.hidden_size
    direction = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    edits = {site: Edit(direction, np.ones(lvlm.spec.layers, np.float32)) for site in SITES}
    return SteeringVector(lvlm.spec, edits, "self-check")
