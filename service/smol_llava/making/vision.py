"""Stage 1: train the vision tower and the projector to describe a picture in the decoder's own word embeddings.

Each of the nine image tokens stands for one word of the picture's description, such as "picture three small red circle
on white dot top", and must come out near that word's input embedding. The pretrained decoder then reads a picture as it
reads a text, before any of its own weights change.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel, LlavaConfig, PreTrainedTokenizerBase
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from vlibrary.bundled.making.vision import patch_states
from vlibrary.smol_llava.making.checkpoints import Checkpoints
from vlibrary.smol_llava.making.decoder import matrix_dtype
from vlibrary.smol_llava.making.pictures import SLOTS, Pictures, all_words, describe, to_input

RATE = 1e-3
DISTANCE_WEIGHT = 5.0
EVERY = 250  # steps between checkpoints
Report = Callable[[int, Mapping[str, float]], None]


class _PatchEmbedding(nn.Conv2d):
    """The tower's convolution as one matrix product; its own backward pass takes a third of a step on a CPU."""

    def forward(self, pixels: Tensor) -> Tensor:
        side = self.kernel_size[0]
        number, channels, height, width = pixels.shape
        cells = pixels.view(number, channels, height // side, side, width // side, side)
        flat = cells.permute(0, 2, 4, 1, 3, 5).reshape(number, -1, channels * side * side)
        patches = functional.linear(flat, self.weight.flatten(1))
        grid: Tensor = patches.transpose(1, 2).unflatten(2, (height // side, width // side))
        return grid


class VisionModel(nn.Module):
    """The vision tower and the projector, under the names that they have in a Llava."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        self.vision_tower = CLIPVisionModel(cast("CLIPVisionConfig", config.vision_config))
        self.vision_tower.set_attn_implementation("eager")  # for ten tokens, the fastest on a CPU
        self.vision_tower.embeddings.patch_embedding.__class__ = _PatchEmbedding
        self.multi_modal_projector = LlavaMultiModalProjector(config)

    def forward(self, images: Tensor) -> Tensor:
        """Return the image tokens, [N, 9, d]."""
        tokens: Tensor = self.multi_modal_projector(patch_states(self.vision_tower, images))
        return tokens


class Words:
    """The words of the descriptions and their input embeddings, [W, d]; of words of several tokens, the mean."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, embeddings: Tensor) -> None:
        self.words = all_words()
        pieces = [tokenizer(" " + word, add_special_tokens=False).input_ids for word in self.words]
        self.vectors = torch.stack([embeddings[ids].float().mean(0) for ids in pieces])
        self._index = {word: at for at, word in enumerate(self.words)}

    def targets(self, pictures: Pictures) -> Tensor:
        """Return the indices of the description's words, [N, 9], -1 where the word is not known."""
        rows = [describe(pictures.kind, facts) for facts in pictures.facts]
        return torch.tensor([[-1 if word is None else self._index[word] for word in row] for row in rows])

    def logits(self, tokens: Tensor) -> Tensor:
        """Return how near image tokens [..., d] are to each word: minus half the squared distance, [..., W]."""
        return -0.5 * torch.cdist(tokens.float(), self.vectors).square()


@dataclass(frozen=True)
class Source:
    """Pictures with their targets, and how many of them a batch holds. turns: whether a turned picture is the same."""

    pictures: Pictures
    targets: Tensor
    share: int
    turns: bool

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        chosen = rng.integers(len(self.pictures.pixels), size=self.share)
        pixels = self.pictures.pixels[chosen]
        if self.turns:
            pixels = np.rot90(pixels, int(rng.integers(4)), axes=(1, 2))
            pixels = pixels[:, :, ::-1] if rng.random() < 0.5 else pixels
        return to_input(np.ascontiguousarray(pixels)), self.targets[chosen]


class _Optimizers:
    """Muon for the weight matrices of the tower's layers, AdamW for all other parameters."""

    def __init__(self, model: VisionModel, steps: int) -> None:
        matrices = [each for each in model.vision_tower.encoder.parameters() if each.ndim == 2]
        inside = {id(each) for each in matrices}
        others = [each for each in model.parameters() if id(each) not in inside]
        self.each = (
            torch.optim.Muon(matrices, lr=RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=RATE, weight_decay=0.05, betas=(0.9, 0.98)),
        )
        self._model = model
        self._steps = steps

    def step(self, step: int, loss: Tensor) -> None:
        """Run one update: warm up over 5 % of the steps, stay flat, then fall to 1 % over the second half."""
        part = step / self._steps
        rate = RATE * min(1.0, part / 0.05, max(0.01, (1 - part) / 0.5))
        self._model.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for each in self.each:
            for group in each.param_groups:
                group["lr"] = rate
            each.step()  # type: ignore[no-untyped-call]


def train(
    model: VisionModel,
    words: Words,
    sources: Sequence[Source],
    tests: Sequence[Pictures],
    steps: int,
    seed: int,
    report: Report,
    checkpoints: Checkpoints,
) -> None:
    """Train the tower and the projector in place; go on after the last checkpoint."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 5])
    optimizers = _Optimizers(model, steps)
    done = checkpoints.restore(model, optimizers.each, rng)
    for step in range(done + 1, steps + 1):
        parts = [source.draw(rng) for source in sources]
        images = torch.cat([part[0] for part in parts])
        images = images * (1 + 0.05 * torch.randn(len(images), 1, 1, 1)) + 0.03 * torch.randn(len(images), 1, 1, 1)
        targets = torch.cat([part[1] for part in parts])
        with torch.autocast("cpu", torch.bfloat16, enabled=matrix_dtype() is torch.bfloat16):
            tokens = model(images)
        known = targets >= 0
        flat, wanted = tokens.float()[known], targets[known]
        loss = functional.cross_entropy(words.logits(flat), wanted)
        distance = (flat - words.vectors[wanted]).square().mean()
        optimizers.step(step, loss + DISTANCE_WEIGHT * distance)
        scores: dict[str, float] = {}
        if step % EVERY == 0 or step == steps:
            for each in tests:
                scores |= accuracies(model, words, each)
            checkpoints.save(step, model, optimizers.each, rng)
        report(step, {"loss": loss.item(), "distance": distance.item(), **scores})


@torch.no_grad()
def accuracies(model: VisionModel, words: Words, pictures: Pictures) -> dict[str, float]:
    """Return, per word of the description, the share of pictures whose token is nearest to the right word."""
    targets = words.targets(pictures)
    starts = range(0, len(targets), 256)
    tokens = torch.cat([model(to_input(pictures.pixels[at : at + 256])) for at in starts])
    right = words.logits(tokens).argmax(-1) == targets
    scores = {}
    for slot in range(SLOTS):
        known = targets[:, slot] >= 0
        if len(targets[known][:, slot].unique()) > 1:
            scores[f"{pictures.kind} word {slot}"] = right[known][:, slot].float().mean().item()
    return scores
