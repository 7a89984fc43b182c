"""Drawn scenes: one to five identical objects on a plain background, and a small marker at the border.

All images are `uint8 [N, 32, 32, 3]`. A scene's attributes are value indices into `world.words.SCENE_VALUES`, one
`int64 [N]` array per attribute.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vlibrary.bundled.world.words import SCENE_VALUES

SIDE: Final = 32
Floats = NDArray[np.float32]
Attributes = Mapping[str, NDArray[np.int64]]

_COLOURS: Final = np.array(
    [(210, 40, 40), (40, 160, 60), (50, 70, 215), (235, 205, 40), (140, 50, 170), (120, 75, 35)],
    dtype=np.float32,
)
_GROUNDS: Final = np.array(
    [(242, 242, 242), (140, 140, 140), (25, 25, 25), (245, 185, 200), (180, 235, 205), (215, 190, 150)],
    dtype=np.float32,
)
_RADII: Final = np.array([2.8, 3.9, 5.1], dtype=np.float32)
_ANCHORS: Final = np.array([(8, 8), (24, 8), (8, 24), (24, 24), (16, 16)], dtype=np.float32)
_EDGES: Final = np.array([(16, 2.6), (16, 29.4), (2.6, 16), (29.4, 16)], dtype=np.float32)
_CORNERS: Final = np.array([(2, 2), (30, 2), (2, 30), (30, 30)], dtype=np.float32)
_CHUNK: Final = 2048
_ROWS, _COLUMNS = np.meshgrid(
    np.arange(SIDE, dtype=np.float32) + 0.5, np.arange(SIDE, dtype=np.float32) + 0.5, indexing="ij"
)


def draw_attributes(
    count: int, rng: np.random.Generator, fixed: Mapping[str, NDArray[np.int64]] | None = None
) -> dict[str, NDArray[np.int64]]:
    """Draw value indices for `count` scenes, uniform and independent except for the `fixed` attributes."""
    drawn = {name: rng.integers(len(values), size=count) for name, values in SCENE_VALUES.items()}
    return {**drawn, **(fixed or {})}


def draw(count: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
    """Render `count` scenes with uniform attributes; return the images and their attributes."""
    chunks = [draw_attributes(min(_CHUNK, count - at), rng) for at in range(0, count, _CHUNK)]
    pixels = np.concatenate([render(chunk, rng) for chunk in chunks])
    return pixels, {name: np.concatenate([chunk[name] for chunk in chunks]) for name in SCENE_VALUES}


def _distance(shape: NDArray[np.int64], u: Floats, v: Floats, radius: Floats) -> Floats:
    """Return the signed distance in pixels to the outline, negative inside; `u` and `v` are [N, 32, 32]."""
    r = radius[:, None, None]
    length: Floats = np.hypot(u, v)
    across, along = np.abs(u), np.abs(v)
    bar = np.float32(0.36)
    candidates = (
        length - r,
        np.maximum(across, along) - 0.86 * r,
        np.maximum(v - 0.6 * r, 0.866 * across - 0.5 * v - 0.52 * r),
        np.minimum(np.maximum(across - r, along - bar * r), np.maximum(across - bar * r, along - r)),
        np.abs(length - 0.76 * r) - 0.24 * r,
        (across + along - 1.05 * r) * 0.707,
    )
    stacked = np.stack(candidates)
    chosen: Floats = np.take_along_axis(stacked, shape[None, :, None, None], axis=0)[0]
    return chosen


def _marker_centres(position: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Return the marker's centre (x, y) in pixels, [N, 2]; the last position value means any corner."""
    corner = _CORNERS[rng.integers(4, size=len(position))]
    along = np.where((position < 2)[:, None], (1.0, 0.0), (0.0, 1.0))
    edge = _EDGES[np.minimum(position, 3)] + along * rng.uniform(-3, 3, size=(len(position), 1))
    centres: Floats = np.where((position == 4)[:, None], corner, edge).astype(np.float32)
    return centres


def _blend(canvas: Floats, coverage: Floats, colour: Floats) -> Floats:
    """Paint `colour` [N, 3] over `canvas` [N, 32, 32, 3], weighted by `coverage` [N, 32, 32]."""
    weight = coverage[..., None]
    painted: Floats = canvas * (1 - weight) + colour[:, None, None, :] * weight
    return painted


def _cover(distance: Floats) -> Floats:
    """Convert signed distances to antialiased coverage in 0..1."""
    covered: Floats = np.clip(0.5 - distance, 0.0, 1.0).astype(np.float32)
    return covered


def render(attributes: Attributes, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render scenes with random placement, size, tilt, tint and pixel noise."""
    number = len(attributes["shape"])
    tint = _COLOURS[attributes["colour"]] + rng.uniform(-14, 14, (number, 3)).astype(np.float32)
    ground = _GROUNDS[attributes["background"]] + rng.uniform(-9, 9, (number, 3)).astype(np.float32)
    canvas = np.broadcast_to(ground[:, None, None, :], (number, SIDE, SIDE, 3)).astype(np.float32)
    radius = _RADII[attributes["size"]] + rng.uniform(-0.2, 0.2, number).astype(np.float32)
    order = rng.permuted(np.tile(np.arange(len(_ANCHORS)), (number, 1)), axis=1)
    coverage = np.zeros((number, SIDE, SIDE), dtype=np.float32)
    for slot in range(len(_ANCHORS)):
        centre = _ANCHORS[order[:, slot]] + rng.uniform(-1.0, 1.0, (number, 2)).astype(np.float32)
        tilt = rng.uniform(-0.15, 0.15, number).astype(np.float32)[:, None, None]
        x = _COLUMNS[None] - centre[:, 0, None, None]
        y = _ROWS[None] - centre[:, 1, None, None]
        u, v = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
        present = (slot <= attributes["count"])[:, None, None]
        covered = _cover(_distance(attributes["shape"], u, v, radius)) * present
        coverage = np.maximum(coverage, covered)
    canvas = _blend(canvas, coverage, tint)
    middle = _marker_centres(attributes["position"], rng)
    reach = np.hypot(_COLUMNS[None] - middle[:, 0, None, None], _ROWS[None] - middle[:, 1, None, None])
    dark, light = np.full((number, 3), 10.0, np.float32), np.full((number, 3), 250.0, np.float32)
    canvas = _blend(_blend(canvas, _cover(reach - 2.3), dark), _cover(reach - 1.2), light)
    canvas = canvas + rng.normal(0, 6, canvas.shape).astype(np.float32)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
