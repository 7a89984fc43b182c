"""Prompts, pictures and vectors that the model tests share."""

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


def picture(seed: int, size: int = 32) -> bytes:
    """Noise, so that no two pictures look alike to a random model."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


# Different lengths and 3, 0, 1 and 2 pictures, so that every row but one is padded.
PROMPTS = (
    Prompt("and this one?", (picture(2),), (Demonstration("What are these?", (picture(0), picture(1)), "a cat"),)),
    Prompt("Tell me a colour."),
    Prompt("What is it?", (picture(3),)),
    Prompt("Which of the two is larger, and why?", (picture(4), picture(5))),
)
# Two pictures in every row.
PICTURED = (
    Prompt("and this one?", (picture(2),), (Demonstration("What is this?", (picture(0),), "a cat"),)),
    Prompt("Tell me a colour.", (picture(1), picture(6))),
    Prompt("What is it?", (picture(3), picture(7))),
    PROMPTS[3],
)
ANSWERS = ("a dog", "red", "a tree", "the second")


def prompts(lvlm: Lvlm) -> tuple[Prompt, ...]:
    """What this model can read in one batch: without a picture, or with as many in every row."""
    return PICTURED if lvlm.requires_image else PROMPTS


def some_picture(lvlm: Lvlm) -> tuple[bytes, ...]:
    """The pictures of a prompt that is about its text: none where none is needed."""
    return (picture(8),) if lvlm.requires_image else ()


def vector(spec: ModelSpec, seed: int, strength: float = 0.5) -> SteeringVector:
    """Strong enough to change every answer of a random model."""
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
        """[L, 2, 4, 1, d]"""
        with self.lvlm.table.pin_batch(self.vectors) as slots:
            return self.lvlm.table.gather(slots)


@torch.no_grad()
def logits(lvlm: Lvlm, inputs: dict[str, Tensor], rows: Tensor | None = None) -> Tensor:
    """[B, T, V]; steered when rows are given."""
    if rows is None:
        plain: Tensor = lvlm.model(**inputs, use_cache=False).logits
        return plain
    with lvlm.injector.active(rows):
        return logits(lvlm, inputs)
