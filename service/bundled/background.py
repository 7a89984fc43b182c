"""Unrelated queries: what people ask and show that belongs to no task of a library.

Training compares a task's keys with them, to know how close an unrelated query comes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.float64]
_SIDE: Final = 32
_TEXTS: Final = Path(__file__).with_suffix(".txt")
_ROWS, _COLUMNS = np.mgrid[:_SIDE, :_SIDE].astype(np.float64)


def background_texts() -> tuple[str, ...]:
    """Return questions about photographs, requests to an assistant, other languages and texts that ask nothing."""
    return tuple(_TEXTS.read_text(encoding="utf-8").splitlines())


def background_pictures(count: int, seed: int) -> tuple[list[Image.Image], NDArray[np.int64]]:
    """Return pictures that show nothing in particular, and the number of each one's kind; a seed gives one list.

    The kinds take turns: noise, flat colours, gradients, textures, text, and compositions with the statistics of
    photographs.
    """
    rng = np.random.default_rng([seed, 41])
    kinds = np.arange(count) % len(_KINDS)
    drawn = [np.clip(_KINDS[kind](rng), 0, 1) * 255 for kind in kinds]
    return [Image.fromarray(pixels.astype(np.uint8)) for pixels in drawn], kinds.astype(np.int64)


def _clouds(rng: np.random.Generator, steepness: float, channels: int = 1) -> Pixels:
    """Return noise whose amplitude falls with the frequency, as in photographs, in 0..1: [32, 32, channels]."""
    frequencies = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.fftfreq(_SIDE)[None])
    waves = rng.normal(size=(2, channels, _SIDE, _SIDE)) / np.maximum(frequencies, 1 / _SIDE) ** steepness
    planes = np.fft.ifft2(waves[0] + 1j * waves[1]).real.transpose(1, 2, 0)
    lowest = planes - planes.min((0, 1))
    scaled: Pixels = lowest / lowest.max((0, 1))
    return scaled


def _blend(rng: np.random.Generator, share: Pixels) -> Pixels:
    """Return a mixture of two random colours; `share` [32, 32] is that of the second."""
    first, second = rng.random((2, 3))
    mixed: Pixels = first + (second - first) * share[..., None]
    return mixed


def _grain(rng: np.random.Generator, pixels: Pixels, amount: float) -> Pixels:
    noisy: Pixels = pixels + rng.normal(0, amount, pixels.shape)
    return noisy


def _colour_noise(rng: np.random.Generator) -> Pixels:
    return rng.random((_SIDE, _SIDE, 3))


def _grey_noise(rng: np.random.Generator) -> Pixels:
    return np.repeat(rng.random((_SIDE, _SIDE, 1)), 3, 2)


def _flat(rng: np.random.Generator) -> Pixels:
    return _grain(rng, np.ones((_SIDE, _SIDE, 3)) * rng.random(3), rng.choice([0, 0.01, 0.03]))


def _gradient(rng: np.random.Generator) -> Pixels:
    angle = rng.uniform(0, 2 * np.pi)
    along = _COLUMNS * np.cos(angle) + _ROWS * np.sin(angle)
    return _grain(rng, _blend(rng, (along - along.min()) / np.ptp(along)), rng.choice([0, 0.02]))


def _two_colour_clouds(rng: np.random.Generator) -> Pixels:
    return _blend(rng, _clouds(rng, rng.uniform(0.8, 2))[..., 0])


def _coloured_clouds(rng: np.random.Generator) -> Pixels:
    colours = _clouds(rng, rng.uniform(0.8, 1.8), 3)
    grey = colours.mean(2, keepdims=True)
    muted: Pixels = grey + (colours - grey) * rng.uniform(0.1, 0.8)
    return muted


def _grey_clouds(rng: np.random.Generator) -> Pixels:
    return np.repeat(_clouds(rng, rng.uniform(0.5, 2)), 3, 2)


def _stripes(rng: np.random.Generator) -> Pixels:
    angle, width = rng.uniform(0, np.pi), rng.uniform(0.2, 2)
    wave = 0.5 + 0.5 * np.sin((_COLUMNS * np.cos(angle) + _ROWS * np.sin(angle)) * width + rng.uniform(0, 6))
    return _blend(rng, np.rint(wave) if rng.random() < 0.5 else wave)


def _checkers(rng: np.random.Generator) -> Pixels:
    side = rng.integers(2, 9)
    return _grain(rng, _blend(rng, (_COLUMNS // side + _ROWS // side) % 2), 0.01)


def _collage(rng: np.random.Generator) -> Pixels:
    """Shaded discs and boxes before a cloudy ground."""
    pixels = _coloured_clouds(rng)
    for _ in range(rng.integers(2, 7)):
        x, y, radius, stretch = rng.uniform([0, 0, 3, 0.4], [_SIDE, _SIDE, 16, 2.5])
        across, along = np.abs(_COLUMNS - x), np.abs(_ROWS - y) * stretch
        inside = np.maximum(across, along) < radius if rng.random() < 0.5 else np.hypot(across, along) < radius
        pixels = np.where(inside[..., None], rng.random(3) * (_clouds(rng, 1.5) * 0.6 + 0.5), pixels)
    return _grain(rng, pixels, 0.02)


def _landscape(rng: np.random.Generator) -> Pixels:
    above = (rng.integers(8, 25) > _ROWS)[..., None]
    return _grain(rng, np.where(above, _gradient(rng), _coloured_clouds(rng)), 0.02)


def _print(rng: np.random.Generator) -> Pixels:
    """Lines of dark dashes on light paper, like a page of text."""
    pixels = np.ones((_SIDE, _SIDE, 3)) * rng.uniform(0.8, 1)
    height = int(rng.integers(2, 5))
    for row in range(2, 30, height + 1):
        inked = rng.random((max(1, height // 2), 28)) < 0.5
        pixels[row : row + len(inked), 2:30][inked] = rng.uniform(0, 0.3)
    return pixels


def _silhouette(rng: np.random.Generator) -> Pixels:
    clouds = _clouds(rng, rng.uniform(1.5, 2.5))[..., 0]
    return _grain(rng, _blend(rng, (clouds > rng.uniform(0.35, 0.65)).astype(np.float64)), 0.01)


def _spots(rng: np.random.Generator) -> Pixels:
    pixels = np.ones((_SIDE, _SIDE, 3)) * rng.random(3)
    for _ in range(rng.integers(5, 25)):
        x, y, radius = rng.uniform([0, 0, 1.5], [_SIDE, _SIDE, 5])
        weight = np.exp(-((_COLUMNS - x) ** 2 + (_ROWS - y) ** 2) / radius**2)[..., None] * 0.9
        pixels = pixels + (rng.random(3) - pixels) * weight
    return pixels


def _spotlight(rng: np.random.Generator) -> Pixels:
    x, y = rng.uniform(8, 24, 2)
    light = np.exp(-((_COLUMNS - x) ** 2 + (_ROWS - y) ** 2) / rng.uniform(30, 200))[..., None]
    lit: Pixels = rng.random(3) * light + _coloured_clouds(rng) * (1 - light) * rng.uniform(0, 0.6)
    return lit


_KINDS: Final[tuple[Callable[[np.random.Generator], Pixels], ...]] = (
    _colour_noise,
    _grey_noise,
    _flat,
    _gradient,
    _two_colour_clouds,
    _coloured_clouds,
    _grey_clouds,
    _stripes,
    _checkers,
    _collage,
    _landscape,
    _print,
    _silhouette,
    _spots,
    _spotlight,
)
