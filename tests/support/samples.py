"""Small vectors, cards and pictures that tests share."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from vlibrary.domain.vector import Array, Edit, ModelSpec, Site, SteeringVector
from vlibrary.formats.artifact import encode


def png(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (32, 32)) -> bytes:
    """Return a picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def blank_png(width: int, height: int) -> bytes:
    """Return a black PNG of one bit per pixel, encoded row by row: 13,000 × 13,000 pixels take 21 KB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def vector(model: ModelSpec, seed: int = 0) -> SteeringVector:
    """Return a random M²IV vector for this model."""
    rng = np.random.default_rng(seed)
    shape = (model.layers, model.hidden_size)
    edits = {site: Edit(_normal(rng, shape), _normal(rng, (model.layers,))) for site in (Site.ATTENTION, Site.MLP)}
    return SteeringVector(model, edits, "m2iv", training={"shots": 16, "seed": seed})


def artifact(model: ModelSpec, seed: int = 0) -> bytes:
    """Return the bytes of `vector`."""
    return encode(vector(model, seed))


def card(name: str, description: str = "", **more: Any) -> str:
    """Return a card as JSON."""
    return json.dumps({"name": name, "description": description} | more)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape, dtype=np.float32)
