"""Between the stages: the vision tower's patch states, computed once, and the projector's start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from vlibrary.bundled.making.episodes import Pool
from vlibrary.bundled.making.vision import Heads, Pictures, normalise, patch_states, read_out


@dataclass(frozen=True)
class Cache:
    """Patch states ``float32 [N, 4, d_vision]`` of images, their labels [N], the images by value."""

    states: Tensor
    labels: Mapping[str, Tensor]
    pool: Pool


@torch.no_grad()
def cache(model: LlavaForConditionalGeneration, pictures: Sequence[Pictures]) -> Cache:
    """Run the vision tower once over all pictures."""
    tower = model.model.vision_tower
    states = [
        patch_states(tower, normalise(each.pixels[at : at + 1024]))
        for each in pictures
        for at in range(0, len(each.pixels), 1024)
    ]
    names = pictures[0].labels
    labels = {name: np.concatenate([each.labels[name] for each in pictures]) for name in names}
    known = {name: torch.from_numpy(values) for name, values in labels.items()}
    return Cache(torch.cat(states), known, Pool(labels))


@torch.no_grad()
def start_projector(model: LlavaForConditionalGeneration, heads: Heads, seen: Cache) -> None:
    """Let the projector's first layer begin as the vision stage's read-outs.

    Its hidden units then are nearly one-hot attribute values. From random weights the decoder still
    misread position and background after 2,250 steps.
    """
    weight, bias = read_out(heads)
    logits = seen.states[:: max(1, len(seen.states) // 4096)] @ weight.T + bias
    scale = 1.5 / logits.std()
    first = model.model.multi_modal_projector.linear_1
    first.weight[: len(weight)] = weight * scale
    first.bias[: len(bias)] = bias * scale
    first.weight[len(weight) :] *= 0.1
    nn.init.normal_(model.model.multi_modal_projector.linear_2.weight, std=0.05)
