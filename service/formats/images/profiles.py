"""Conversion of colours from an embedded ICC profile to sRGB, as viewers do it."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE = 4 * 2**20  # bytes; CMYK profiles of printers have up to 3 MB
_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
_SAME = 2  # levels of 255


@lru_cache(maxsize=8)  # at most 8 × MAX_PROFILE
def build_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform to sRGB for pixels of a mode: "L", "RGB" or "CMYK".

    Returns None if the pixels are to be read as sRGB: the profile is sRGB itself, or it is damaged, or it is for
    other colours than the image has. Viewers do the same.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = _SPACES.get(source.profile.xcolor_space.strip())
        if space == "RGB" and mode == "L":
            mode = "RGB"  # common in greyscale JPEGs; the grey is converted as a colour
        if space != mode:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if mode == "RGB" and _changes_nothing(transform) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Most profiles are sRGB: tell by the colours, which avoids the transform of every pixel."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(len(steps), -1, 3)
    found = np.asarray(transform.apply(Image.fromarray(colours)))
    return int(np.abs(found.astype(int) - colours).max()) <= _SAME
