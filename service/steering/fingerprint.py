"""The identity of a base model, computed without reading all of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from vlibrary.domain.vector import ModelSpec

SAMPLES = 16


def fingerprint(model: nn.Module, facts: Sequence[str | int]) -> str:
    """Return the hex sha256 of the facts (architecture, sizes) and of each parameter's name, shape and SAMPLES values.

    The values are taken at even strides, so that a fine-tuned sibling differs, and rounded to bfloat16, so that the
    same weights in float32 and in bfloat16 have the same fingerprint.
    """
    digest = hashlib.sha256("\n".join(map(str, facts)).encode())
    for name, parameter in sorted(model.named_parameters()):
        values = parameter.detach().reshape(-1)
        count = min(SAMPLES, len(values))
        places = torch.arange(count, device=values.device) * len(values) // max(count, 1)
        digest.update(f"\n{name} {list(parameter.shape)} ".encode())
        # numpy has no bfloat16: view its two bytes as int16.
        digest.update(values[places].to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()


def model_spec(model: PreTrainedModel, model_id: str) -> ModelSpec:
    """Return the identity of an LVLM; it has the same fingerprint under every model_id."""
    text_config = model.config.get_text_config(decoder=True)
    architecture = type(model).__name__
    layers, width = text_config.num_hidden_layers, text_config.hidden_size
    return ModelSpec(
        model_id=model_id,
        fingerprint=fingerprint(model, [architecture, layers, width, text_config.vocab_size]),
        architecture=architecture,
        layers=layers,
        hidden_size=width,
    )
