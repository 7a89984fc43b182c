"""Small vectors, cards and pictures that tests share."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from PIL import Image

from vlibrary.domain.vector import Array, Edit, ModelSpec, Site, SteeringVector
from vlibrary.formats.artifact import encode


def png(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (32, 32)) -> bytes:
    """A picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def vector(model: ModelSpec, seed: int = 0) -> SteeringVector:
    """A random M²IV vector for this model."""
    rng = np.random.default_rng(seed)
    shape = (model.layers, model.hidden_size)
    edits = {site: Edit(_normal(rng, shape), _normal(rng, (model.layers,))) for site in (Site.ATTENTION, Site.MLP)}
    return SteeringVector(model, edits, "m2iv", training={"shots": 16, "seed": seed})


def artifact(model: ModelSpec, seed: int = 0) -> bytes:
    """The bytes of `vector`."""
    return encode(vector(model, seed))


def card(name: str, description: str = "", **more: Any) -> str:
    """A card's JSON."""
    return json.dumps({"name": name, "description": description} | more)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape, dtype=np.float32)
