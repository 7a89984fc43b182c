"""scikit-learn's handwritten digits (8x8 scans), enlarged to 32x32 RGB.

The split is fixed: every third scan of each digit is a test scan, for every seed.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlibrary.bundled.world.scenes import SIDE

Split = Literal["train", "test"]


@lru_cache(maxsize=1)
def _load_scans() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return all scans as ink in 0..1, [1797, 32, 32], and their digits, [1797]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    scans = (data.images * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(scan).resize((28, 28), Image.Resampling.BICUBIC)) for scan in scans]
    padded = np.pad(np.stack(large), ((0, 0), (2, 2), (2, 2)))
    ink: NDArray[np.float32] = padded.astype(np.float32) / np.float32(255)
    return ink, data.target.astype(np.int64)


@lru_cache(maxsize=2)
def scan_ids(split: Split) -> tuple[NDArray[np.int64], ...]:
    """Return, for every digit 0..9, the indices of its scans in a split."""
    _, labels = _load_scans()
    per_digit = []
    for digit in range(10):
        ids = np.flatnonzero(labels == digit)
        is_test = np.arange(len(ids)) % 3 == 2
        per_digit.append(ids[is_test] if split == "test" else ids[~is_test])
    return tuple(per_digit)


def attribute_values(digit: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Return the value indices of every digit attribute for digits [N]."""
    return {"digit": digit, "parity": digit % 2, "half": (digit >= 5).astype(np.int64)}


def draw(count: int, split: Split, rng: np.random.Generator) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
    """Render `count` digits drawn uniformly from the scans of a split; return the images and their attributes."""
    shown = rng.integers(10, size=count)
    return render(draw_scans(shown, split, rng), rng), attribute_values(shown)


def draw_scans(digits: NDArray[np.int64], split: Split, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one scan of a split for each digit; return the scan indices, [N]."""
    per_digit = scan_ids(split)
    picks = [per_digit[digit][rng.integers(len(per_digit[digit]))] for digit in digits]
    return np.array(picks, dtype=np.int64)


def render(scans: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render scans as dark ink on light paper, shifted by up to 2 pixels: `uint8 [N, 32, 32, 3]`."""
    ink = _load_scans()[0][scans]
    number = len(scans)
    shifts = rng.integers(-2, 3, size=(number, 2))
    rows = (np.arange(SIDE)[None] - shifts[:, :1]) % SIDE
    columns = (np.arange(SIDE)[None] - shifts[:, 1:]) % SIDE
    ink = ink[np.arange(number)[:, None, None], rows[:, :, None], columns[:, None, :]]
    paper = rng.uniform(215, 250, (number, 1, 1, 1)).astype(np.float32)
    depth = rng.uniform(0.8, 1.0, (number, 1, 1, 1)).astype(np.float32)
    page = paper * (1 - depth * ink[..., None]) + rng.normal(0, 6, (number, SIDE, SIDE, 1))
    grey = np.clip(np.rint(page), 0, 255).astype(np.uint8)
    return np.repeat(grey, 3, axis=3)
