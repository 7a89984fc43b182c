"""The size of the residual stream, against which learning rates and norms of vectors are measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vlibrary.domain.vector import Array
from vlibrary.models.lvlm import Lvlm
from vlibrary.steering.find_sites import decoder_layers
from vlibrary.steering.injector import first_tensor
from vlibrary.training.forward import AnswerBatch, answer_logits


@torch.no_grad()
def measure_stream(lvlm: Lvlm, batches: Sequence[AnswerBatch]) -> Array:
    """Return the norm of the unsteered residual stream after every layer, float32 [L].

    The median over the tokens, because the first tokens of many models have norms a thousand times those of the others.
    """
    norms: list[list[Tensor]] = [[] for _ in range(lvlm.spec.layers)]
    padding = torch.zeros(0)

    def watch(layer: int) -> object:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            states = first_tensor(output)
            assert states is not None, "a decoder layer returns hidden states"
            norms[layer].append(states[padding].float().norm(dim=-1).cpu())

        return hook

    layers = decoder_layers(lvlm.model)
    handles = [layer.register_forward_hook(watch(number)) for number, layer in enumerate(layers)]  # type: ignore[arg-type]
    try:
        for batch in batches:
            padding = batch.inputs["attention_mask"].to(lvlm.device).bool()
            answer_logits(lvlm, batch)
    finally:
        for handle in handles:
            handle.remove()
    return np.array([torch.cat(own).median().item() for own in norms], dtype=np.float32)
