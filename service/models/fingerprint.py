"""Tells a model from its fine-tuned siblings without reading all of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

SAMPLES = 16


def fingerprint(model: nn.Module, facts: Sequence[str | int]) -> str:
    """Hex sha256 of the facts (architecture, sizes) and of every parameter's name, shape and SAMPLES of its values.

    The values are taken at even strides and rounded to bfloat16, so that loading the same weights in float32 or in
    bfloat16 gives the same fingerprint.
    """
    digest = hashlib.sha256("\n".join(map(str, facts)).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"\n{name} {list(parameter.shape)} ".encode())
        digest.update(_samples(parameter.detach()))
    return digest.hexdigest()


def _samples(values: Tensor) -> bytes:
    flat = values.reshape(-1)
    count = min(SAMPLES, len(flat))
    places = torch.arange(count, device=flat.device) * len(flat) // max(count, 1)
    # numpy has no bfloat16: its two bytes travel as int16.
    return flat[places].to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes()
