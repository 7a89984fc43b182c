"""Random weights, and model folders for `from_pretrained`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.model.tiny.parts import hf, vocabulary


def randomise(model: nn.Module, seed: int) -> None:
    """Scale matrices so that they preserve the norm of their input, and move norms and biases off their defaults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.shape == (1,):  # a gate, initialised as closed
                parameter.fill_(0.7)
            elif parameter.dim() >= 2:
                fan_in = math.prod(parameter.shape[1:])
                parameter.copy_(noise / math.sqrt(fan_in))
            else:
                parameter.add_(0.1 * noise)


def random_model(auto_class: Any, config: Any, seed: int = 0) -> Any:
    """Build a model with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto_class.from_config(config)
    randomise(model, seed)
    return model


def restrict_to_printable(model: Any, tokenizer: Any) -> None:
    """Zero the logits of image tokens and partial characters, so that different answers have different texts."""
    texts = {token: tokenizer.decode([token]).strip() for token in range(3, vocabulary(tokenizer))}
    plain = {token for token, text in texts.items() if text and text.isascii() and text.isprintable()}
    odd = [token for token, text in texts.items() if token not in plain or "image" in text]
    with torch.no_grad():
        model.get_output_embeddings().weight[odd] = 0


def save(config: Any, processor: Any, folder: Path, seed: int = 0) -> Path:
    model = random_model(hf.AutoModelForImageTextToText, config, seed)
    restrict_to_printable(model, processor.tokenizer)
    end = getattr(processor, "end_of_utterance_token", None)
    ends = [2] if end is None else [2, processor.tokenizer.convert_tokens_to_ids(str(end))]
    model.generation_config.update(eos_token_id=ends, pad_token_id=0, bos_token_id=1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_embedder(config: Any, processor: Any, folder: Path, seed: int = 0) -> Path:
    random_model(hf.AutoModel, config, seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
