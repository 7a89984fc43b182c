"""Decode steps compiled by torch, and shown to steer before anybody is served."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from service.domain.applicable import SITES
from service.domain.errors import UnsupportedModel
from service.domain.vector import Edit, SteeringVector
from service.domain.wire import Prompt
from service.engine.decoder import SlabDecoder
from service.engine.encoding import encode
from service.engine.features import ImageFeatures
from service.steering.lvlm import Lvlm
from service.steering.table import EMPTY

# How far compiled logits may be from eager ones, relative to the largest: what another order of summing costs.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def compiled_decoder(lvlm: Lvlm, features: ImageFeatures, *, most_columns: int) -> SlabDecoder:
    """A decoder whose decode steps are compiled, once for all batch sizes, cache widths and vectors.

    A compiled model ignores hooks that come later and may lose those that were there, silently; so one step is compared
    with an eager one. Raises UnsupportedModel when they differ or a vector changes nothing.
    """
    forward = torch.compile(lvlm.model.forward, dynamic=True)
    fast = SlabDecoder(lvlm, features, most_columns=most_columns, forward=forward)
    _canary(lvlm, fast, SlabDecoder(lvlm, features))
    return fast


@torch.inference_mode()
def _canary(lvlm: Lvlm, fast: SlabDecoder, eager: SlabDecoder) -> None:
    """Three equal prompts, the first unsteered, the others steered: one compiled step against one eager step."""
    slots = [EMPTY, *(lvlm.table.pin(_vector(lvlm, seed)) for seed in (1, 2))]
    prompt = encode(lvlm, Prompt("What is this?"), max_new_tokens=1)
    try:
        got, wanted = (_one_step(decoder, [prompt] * len(slots), slots) for decoder in (fast, eager))
    finally:
        lvlm.table.unpin(slots[1:])
    allowed = _TOLERANCE.get(wanted.dtype, 1e-4) * wanted.abs().max()
    if (got - wanted).abs().max() > allowed or torch.equal(got[0], got[1]) or torch.equal(got[1], got[2]):
        raise UnsupportedModel(
            f"{lvlm.spec.architecture} compiled answers differently or does not react to vectors.",
            "Start the worker without VLIBRARY_COMPILE.",
        )


def _one_step(decoder: SlabDecoder, prompts: Any, slots: list[int]) -> torch.Tensor:
    """The logits [B, V] of the second token; the decoder is empty again afterwards."""
    decoder.join(decoder.prefill(prompts, slots))
    logits = decoder.decode([0] * len(slots), slots)
    for row in reversed(range(len(slots))):
        decoder.leave(row, scrub=True)
    return logits


def _vector(lvlm: Lvlm, seed: int) -> SteeringVector:
    """One direction at every site, as long as a stream of this width may well be."""
    shape = lvlm.spec.layers, lvlm.spec.hidden_size
    direction = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    edits = {site: Edit(direction, np.ones(lvlm.spec.layers, np.float32)) for site in SITES}
    return SteeringVector(lvlm.spec, edits, "canary")
