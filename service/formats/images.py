"""From encoded bytes to pixels, with the checks that hostile pictures need.

Pillow alone only warns when a 20 KB PNG decodes to half a gigabyte; here the size is read from the header and refused
before a single pixel is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from PIL import Image, ImageOps

from vlibrary.domain.errors import InvalidImage

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 25_000_000
MAX_PIXELS_TOGETHER = 100_000_000  # of one request: 300 MB as pixels
MAX_ASPECT = 100


def decode_images(encoded: Sequence[bytes]) -> list[Image.Image]:
    """Still RGB pictures, upright.

    Raises InvalidImage as decode_image does, and for more than MAX_PIXELS_TOGETHER before a pixel is decoded.
    """
    pixels = 0
    for data in encoded:
        with _reading(data) as picture:
            pixels += picture.width * picture.height
    if pixels > MAX_PIXELS_TOGETHER:
        raise InvalidImage(
            f"The {len(encoded)} images have {pixels:,} pixels together.",
            f"Send fewer, or scale them down to {MAX_PIXELS_TOGETHER:,} in all.",
        )
    return [decode_image(data) for data in encoded]


def decode_image(data: bytes) -> Image.Image:
    """One still RGB picture, upright.

    Raises InvalidImage for anything but a readable, single-frame PNG, JPEG or WebP of at most MAX_PIXELS.
    """
    with _reading(data) as picture:
        picture.load()
        return ImageOps.exif_transpose(picture).convert("RGB")


@contextmanager
def _reading(data: bytes) -> Iterator[Image.Image]:
    """The picture with its header checked; whatever Pillow stumbles over inside becomes InvalidImage."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_header(picture)
        yield picture
    except InvalidImage:
        raise
    except Exception as error:  # hostile bytes make Pillow's parsers raise whatever they stumble over
        raise InvalidImage(
            f"The image cannot be read ({len(data)} bytes, {type(error).__name__}).",
            "Send a whole PNG, JPEG or WebP file.",
        ) from error


def _check_header(picture: Image.Image) -> None:
    """What can be told before a pixel is decoded."""
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise InvalidImage(
            f"The image has {width} × {height} pixels.", f"Scale it down to at most {MAX_PIXELS:,} pixels."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidImage(
            f"The image is {width} × {height}, a mere line.", f"Send one with an aspect of at most {MAX_ASPECT} : 1."
        )
    if getattr(picture, "n_frames", 1) != 1:
        raise InvalidImage("The image is animated.", "Send a single frame as PNG, JPEG or WebP.")
