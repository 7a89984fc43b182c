"""Prompts, images and vectors that the model tests share."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.support import samples
from vlibrary.domain.vector import ModelSpec, SteeringVector
from vlibrary.domain.wire import Demonstration, Prompt
from vlibrary.models.lvlm import Lvlm


def noise_image(seed: int, size: int = 32) -> bytes:
    """Return a PNG of noise; images of different seeds have different features in a random model."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


# Different lengths and 3, 0, 1 and 2 images, so that all rows but one are padded.
PROMPTS = (
    Prompt(
        "and this one?",
        (noise_image(2),),
        (Demonstration("What are these?", (noise_image(0), noise_image(1)), "a cat"),),
    ),
    Prompt("Tell me a colour."),
    Prompt("What is it?", (noise_image(3),)),
    Prompt("Which of the two is larger, and why?", (noise_image(4), noise_image(5))),
)
# Two images in every row.
PROMPTS_WITH_IMAGES = (
    Prompt("and this one?", (noise_image(2),), (Demonstration("What is this?", (noise_image(0),), "a cat"),)),
    Prompt("Tell me a colour.", (noise_image(1), noise_image(6))),
    Prompt("What is it?", (noise_image(3), noise_image(7))),
    PROMPTS[3],
)
ANSWERS = ("a dog", "red", "a tree", "the second")


def prompts(lvlm: Lvlm) -> tuple[Prompt, ...]:
    """Return prompts that this model accepts in one batch; all have two images if the model needs images."""
    return PROMPTS_WITH_IMAGES if lvlm.requires_image else PROMPTS


def required_images(lvlm: Lvlm) -> tuple[bytes, ...]:
    """Return one image if the model needs one, else none."""
    return (noise_image(8),) if lvlm.requires_image else ()


def vector(spec: ModelSpec, seed: int, strength: float = 0.5) -> SteeringVector:
    """Return a vector that is strong enough to change every answer of a random model."""
    return samples.vector(spec, seed) * strength


@dataclass(frozen=True)
class Mixed:
    """A batch whose rows have the vectors 1, none, 2, 1."""

    lvlm: Lvlm

    @property
    def vectors(self) -> tuple[SteeringVector | None, ...]:
        one, two = vector(self.lvlm.spec, 1), vector(self.lvlm.spec, 2)
        return one, None, two, one

    @property
    def rows(self) -> Tensor:
        """The edits of the batch, [L, 2, 4, 1, d]."""
        with self.lvlm.table.pin_batch(self.vectors) as slots:
            return self.lvlm.table.gather(slots)


@torch.no_grad()
def logits(lvlm: Lvlm, inputs: dict[str, Tensor], rows: Tensor | None = None) -> Tensor:
    """Return the logits [B, T, V], steered if rows [L, 2, B, 1, d] are given."""
    if rows is None:
        plain: Tensor = lvlm.model(**inputs, use_cache=False).logits
        return plain
    with lvlm.injector.active(rows):
        return logits(lvlm, inputs)
