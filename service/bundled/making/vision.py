"""Stage 1: train the CLIP vision tower to represent every attribute in the states that the decoder reads.

Each of the four patch states of the last layer must, on its own, predict every attribute through one linear head. The
decoder then does not have to search over patches, which makes label mappings learnable in context within minutes.

After this stage the tower is frozen: its patch states are computed once and cached for the decoder's training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionModel, LlavaForConditionalGeneration

from vlibrary.bundled.making.episodes import Pool
from vlibrary.bundled.world import digits, scenes
from vlibrary.bundled.world.digits import Split
from vlibrary.bundled.world.words import DIGIT_VALUES, SCENE_VALUES, VALUES

Report = Callable[[int, Mapping[str, float]], None]
_STREAM = {"train": 11, "test": 12}


@dataclass(frozen=True)
class Pictures:
    """Images with their labels; `labels` maps an attribute to value indices [N], -1 where it is not visible."""

    pixels: NDArray[np.uint8]
    labels: Mapping[str, NDArray[np.int64]]


def scene_pictures(count: int, split: Split, seed: int) -> Pictures:
    """Render scenes with uniform attributes; the two splits come from separate random streams."""
    rng = np.random.default_rng([_STREAM[split], seed, 0])
    pixels, seen = scenes.draw(count, rng)
    unseen = {name: np.full(count, -1, dtype=np.int64) for name in DIGIT_VALUES}
    return Pictures(pixels, {**seen, **unseen})


def digit_pictures(count: int, split: Split, seed: int) -> Pictures:
    """Render digits drawn uniformly from the scans of a split, each with new jitter."""
    rng = np.random.default_rng([_STREAM[split], seed, 1])
    pixels, seen = digits.draw(count, split, rng)
    unseen = {name: np.full(count, -1, dtype=np.int64) for name in SCENE_VALUES}
    return Pictures(pixels, {**unseen, **seen})


def normalise(pixels: NDArray[np.uint8]) -> Tensor:
    """Apply the image processor's normalisation to 32x32 images: `float32 [N, 3, 32, 32]` in -1..1."""
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32) / 255
    return (scaled - 0.5) / 0.5


def patch_states(tower: CLIPVisionModel, pixels: Tensor) -> Tensor:
    """Return the patch states of the last layer, [N, patches, d_vision], as Llava selects them."""
    states: Tensor = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
    return states[:, 1:]


class Heads(nn.Module):
    """One linear head per attribute; the last class means that the attribute is not visible in the image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(values) + 1 for values in VALUES.values()]
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, states: Tensor) -> dict[str, Tensor]:
        """Return the logits per attribute, [N, 4, values + 1]."""
        parts = torch.split(self.linear(states), self.sizes, dim=-1)
        return dict(zip(VALUES, parts, strict=True))


def _loss(logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    """Return the sum over attributes of the mean cross-entropy over images and patches."""
    terms = []
    for name, values in VALUES.items():
        wanted = labels[name] % (len(values) + 1)
        spread = wanted[:, None].expand(-1, logits[name].shape[1]).flatten()
        terms.append(functional.cross_entropy(logits[name].float().flatten(0, 1), spread))
    return torch.stack(terms).sum()


@torch.no_grad()
def accuracies(tower: CLIPVisionModel, heads: Heads, pictures: Pictures) -> dict[str, float]:
    """Return the accuracy per attribute, with logits averaged over the patches."""
    logits = heads(patch_states(tower, normalise(pictures.pixels)))
    scores = {}
    for name, labels in pictures.labels.items():
        visible = torch.from_numpy(labels) >= 0
        if visible.any():
            right = logits[name].mean(1).argmax(-1) == torch.from_numpy(labels)
            scores[name] = right[visible].float().mean().item()
    return scores


@torch.no_grad()
def combine_heads(heads: Heads) -> tuple[Tensor, Tensor]:
    """Return all heads as one linear map: weight [rows, d_vision] and bias [rows], one row per value.

    Each attribute's rows are centred on the mean of its classes, because softmax ignores a common shift.
    """
    rows = [(weight - weight.mean(0))[:-1] for weight in torch.split(heads.linear.weight, heads.sizes)]
    shifts = [(bias - bias.mean())[:-1] for bias in torch.split(heads.linear.bias, heads.sizes)]
    return torch.cat(rows), torch.cat(shifts)


def _draw_batch(pool: Pictures, count: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    chosen = rng.integers(len(pool.pixels), size=count)
    labels = {name: torch.from_numpy(values[chosen]) for name, values in pool.labels.items()}
    return normalise(pool.pixels[chosen]), labels


def train(tower: CLIPVisionModel, steps: int, seed: int, report: Report, pool_size: int) -> Heads:
    """Train the tower in place; return the heads, which are not part of the model."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 2])
    pools = (scene_pictures(pool_size, "train", seed), digit_pictures(pool_size // 2, "train", seed))
    watched = min(1000, pool_size)
    tests = (scene_pictures(watched, "test", seed), digit_pictures(watched, "test", seed))
    heads = Heads(tower.config.hidden_size)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps)
    for step in range(1, steps + 1):
        parts = [_draw_batch(pool, size, rng) for pool, size in zip(pools, (160, 96), strict=True)]
        pixels = torch.cat([part[0] for part in parts])
        pixels = pixels * (1 + 0.05 * torch.randn(len(pixels), 1, 1, 1))
        labels = {name: torch.cat([part[1][name] for part in parts]) for name in VALUES}
        with torch.autocast("cpu", torch.bfloat16):
            logits = heads(patch_states(tower, pixels))
        loss = _loss(logits, labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps:
            scores = accuracies(tower, heads, tests[0]) | accuracies(tower, heads, tests[1])
            report(step, {"loss": loss.item(), **scores})
        else:
            report(step, {})
    return heads


@dataclass(frozen=True)
class StateCache:
    """Patch states `float32 [N, 4, d_vision]` of images, labels [N] per attribute, and the images by value."""

    states: Tensor
    labels: Mapping[str, Tensor]
    pool: Pool


@torch.no_grad()
def cache_states(model: LlavaForConditionalGeneration, pictures: Sequence[Pictures]) -> StateCache:
    """Run the vision tower over all images."""
    tower = model.model.vision_tower
    states = [
        patch_states(tower, normalise(each.pixels[at : at + 1024]))
        for each in pictures
        for at in range(0, len(each.pixels), 1024)
    ]
    names = pictures[0].labels
    labels = {name: np.concatenate([each.labels[name] for each in pictures]) for name in names}
    known = {name: torch.from_numpy(values) for name, values in labels.items()}
    return StateCache(torch.cat(states), known, Pool(labels))


@torch.no_grad()
def initialize_projector(model: LlavaForConditionalGeneration, heads: Heads, seen: StateCache) -> None:
    """Initialize the projector's first layer with the heads: its hidden units become nearly one-hot attribute values.

    With random initial weights, the decoder still confused positions and backgrounds after 2,250 steps.
    """
    weight, bias = combine_heads(heads)
    logits = seen.states[:: max(1, len(seen.states) // 4096)] @ weight.T + bias
    scale = 1.5 / logits.std()
    first = model.model.multi_modal_projector.linear_1
    first.weight[: len(weight)] = weight * scale
    first.bias[: len(bias)] = bias * scale
    first.weight[len(weight) :] *= 0.1
    nn.init.normal_(model.model.multi_modal_projector.linear_2.weight, std=0.05)
