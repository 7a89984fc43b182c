"""The labelled pictures that smol-llava learns from: scenes, digits, plain shapes, easy-vqa's, and pictures of nothing.

A picture is described by nine words, one per image token, see `describe`. `None` in a description means that the word
is not known, for example the size of a shape in easy-vqa.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from vlibrary.bundled.world import digits, scenes
from vlibrary.bundled.world.words import DIGIT_VALUES, SCENE_VALUES, name_values
from vlibrary.formats.images import decode_image

Split = Literal["train", "test"]
Facts = Mapping[str, str]
Pixels = NDArray[np.uint8]
SIDE: Final = 72  # pixels of the model's input
SLOTS: Final = 9
_STREAM: Final = {"train": 31, "test": 32}
_PAINTS: Final[Mapping[str, tuple[int, int, int]]] = {
    "red": (215, 35, 35),
    "green": (35, 150, 55),
    "blue": (45, 65, 215),
    "yellow": (235, 205, 40),
    "purple": (140, 50, 170),
    "brown": (120, 75, 35),
    "gray": (128, 128, 128),
    "black": (12, 12, 12),
    "teal": (20, 150, 150),
}
PLAIN_SHAPES: Final = ("circle", "square", "triangle", "cross", "ring", "diamond", "rectangle")


@dataclass(frozen=True)
class Pictures:
    """Images of one size `uint8 [N, side, side, 3]`, and what is known about each, such as {"colour": "red"}."""

    kind: str
    pixels: Pixels
    facts: Sequence[Facts]


def describe(kind: str, facts: Facts) -> tuple[str | None, ...]:
    """Return the nine words that the image tokens of a picture stand for."""
    get = facts.get
    if kind == "scene":
        words = ("picture", get("count"), get("size"), get("colour"), get("shape"), "on", get("background"), "dot")
        return (*words, get("position"))
    if kind == "digit":
        number = get("digit")
        return ("handwritten", "digit", number, get("parity"), "number", number, get("half"), "digit", number)
    if kind == "shape":
        return ("picture", "one", None, get("colour"), get("shape"), "on", None, "no", "dot")
    if kind == "photo":
        return ("photo", "of", "something", "real", "with", "many", "details", ",", "unknown")
    return ("random", "noise", ",", "no", "shape", ",", "nothing", "to", "see")


def all_words() -> tuple[str, ...]:
    """Return every word of the descriptions, in a fixed order."""
    values = [word for table in (SCENE_VALUES, DIGIT_VALUES) for words in table.values() for word in words]
    fixed = [word for kind in ("scene", "digit", "shape", "photo", "noise") for word in describe(kind, {}) if word]
    return tuple(dict.fromkeys([*values, *_PAINTS, *PLAIN_SHAPES, *fixed]))


def scene_pictures(count: int, split: Split, seed: int) -> Pictures:
    """Render scenes with uniform attributes; the two splits come from separate random streams."""
    rng = np.random.default_rng([_STREAM[split], seed, 0])
    pixels, values = scenes.draw(count, rng)
    return Pictures("scene", pixels, name_values(values))


def digit_pictures(count: int, split: Split, seed: int) -> Pictures:
    """Render digits drawn uniformly from the scans of a split, each with new jitter."""
    rng = np.random.default_rng([_STREAM[split], seed, 1])
    pixels, values = digits.draw(count, split, rng)
    return Pictures("digit", pixels, name_values(values))


def shape_pictures(count: int, split: Split, seed: int, side: int = 64) -> Pictures:
    """Draw one plain shape per picture, of any size, place and tilt, on any light or dark background."""
    rng = np.random.default_rng([_STREAM[split], seed, 2])
    images, facts = [], []
    for _ in range(count):
        shape, colour = str(rng.choice(PLAIN_SHAPES)), str(rng.choice(list(_PAINTS)))
        images.append(_draw_shape(shape, np.array(_PAINTS[colour]), side, rng))
        facts.append({"shape": shape, "colour": colour, "count": "one"})
    return Pictures("shape", np.stack(images), facts)


def _draw_shape(shape: str, paint: NDArray[np.int64], side: int, rng: np.random.Generator) -> Pixels:
    scale = 4  # drawn larger and reduced, for smooth outlines
    ground = rng.integers(120, 256, 3) if rng.random() < 0.8 else rng.integers(0, 256, 3)
    while np.abs(ground - paint).sum() < 110:
        ground = rng.integers(0, 256, 3)
    fill = tuple(np.clip(paint + rng.integers(-14, 15, 3), 0, 255).tolist())
    image = Image.new("RGB", (side * scale, side * scale), tuple(ground.tolist()))
    reach = rng.uniform(0.11, 0.42) * side * scale
    x, y = rng.uniform(reach, side * scale - reach, 2)
    tilt = rng.uniform(0, 2 * np.pi) if shape in ("triangle", "rectangle") else rng.uniform(-0.2, 0.2)
    pen = ImageDraw.Draw(image)
    if shape in ("circle", "ring"):
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill)
        if shape == "ring":
            hole = reach * rng.uniform(0.5, 0.65)
            pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=tuple(ground.tolist()))
    else:
        turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        corners = np.array(_outline(shape, rng)) * reach @ turn + (x, y)
        pen.polygon([tuple(corner) for corner in corners.tolist()], fill=fill)
    small = np.asarray(image.resize((side, side), Image.Resampling.BOX), dtype=np.float32)
    return np.clip(np.rint(small + rng.normal(0, rng.uniform(0, 5), small.shape)), 0, 255).astype(np.uint8)


def _outline(shape: str, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return the corners of a shape in -1..1."""
    if shape == "square":
        return [(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)]
    if shape == "rectangle":
        long, short = 0.9, rng.uniform(0.35, 0.6)
        return [(-long, -short), (long, -short), (long, short), (-long, short)]
    if shape == "triangle":
        return [(0.0, -0.95), (0.85, 0.65), (-0.85, 0.65)]
    if shape == "diamond":
        return [(0.0, -1.0), (0.8, 0.0), (0.0, 1.0), (-0.8, 0.0)]
    arm = 0.34
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm), (arm, 1.0)]
    return quarter + [(-x, -y) for x, y in quarter]


def noise_pictures(count: int, split: Split, seed: int, side: int = 64) -> Pictures:
    """Make pictures of nothing: flat colours, smooth gradients and noise of any grain."""
    rng = np.random.default_rng([_STREAM[split], seed, 3])
    images = []
    for _ in range(count):
        grain = int(rng.choice((1, 2, 4, 16, side)))
        cells = rng.integers(0, 256, (grain, grain, 3)).astype(np.uint8)
        how = Image.Resampling.BICUBIC if rng.random() < 0.5 else Image.Resampling.NEAREST
        images.append(np.asarray(Image.fromarray(cells).resize((side, side), how)))
    return Pictures("noise", np.stack(images), [{}] * count)


def photo_pictures(count: int, split: Split, seed: int, side: int = 64) -> Pictures:
    """Cut pieces out of scikit-learn's two sample photographs; test pieces come from their right-hand thirds."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng([_STREAM[split], seed, 4])
    photos: list[Pixels] = load_sample_images().images
    images = []
    for _ in range(count):
        photo = photos[rng.integers(len(photos))]
        border = photo.shape[1] * 2 // 3
        part = photo[:, :border] if split == "train" else photo[:, border:]
        size = int(rng.integers(120, min(part.shape[:2]) + 1))
        top, left = rng.integers(0, part.shape[0] - size + 1), rng.integers(0, part.shape[1] - size + 1)
        piece = Image.fromarray(part[top : top + size, left : left + size])
        images.append(np.asarray(piece.resize((side, side), Image.Resampling.BICUBIC)))
    return Pictures("photo", np.stack(images), [{}] * count)


@dataclass(frozen=True)
class EasyVqa:
    """One split of easy-vqa: its pictures, and per question the text, the answer and the index of the picture."""

    pictures: Pictures
    questions: Sequence[tuple[str, str, int]]


def easy_vqa(wheel: Path, split: Split) -> EasyVqa:
    """Read a split of easy-vqa out of its wheel. What the questions give away of a picture becomes its facts."""
    with zipfile.ZipFile(wheel) as archive:
        folder = f"easy_vqa/data/{split}"
        rows: list[tuple[str, str, int]] = json.loads(archive.read(f"{folder}/questions.json"))
        count = 1 + max(image for _, _, image in rows)
        files = [archive.read(f"{folder}/images/{number}.png") for number in range(count)]
    pixels = np.stack([np.asarray(decode_image(file)) for file in files])
    facts: list[dict[str, str]] = [{"count": "one"} for _ in range(count)]
    for question, answer, image in rows:
        for name, values in (("shape", ("circle", "rectangle", "triangle")), ("colour", tuple(_PAINTS))):
            stated = {word.strip("?") for word in question.split()} & set(values)
            negated = "not" in question.split() or "no" in question.split()
            if answer in values:
                facts[image][name] = answer
            if stated and (answer not in ("yes", "no") or (answer == "yes") is not negated):
                facts[image][name] = min(stated)
    return EasyVqa(Pictures("shape", pixels, facts), [(question, answer, image) for question, answer, image in rows])


def to_input(pixels: Pixels) -> Tensor:
    """Scale images to the model's input as its image processor does: `float32 [N, 3, 72, 72]` in -1..1."""
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32)
    large = functional.interpolate(scaled, (SIDE, SIDE), mode="bicubic", antialias=True)
    return large.round().clamp(0, 255) / 127.5 - 1
