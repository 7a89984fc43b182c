"""Decoding of untrusted images.

Pillow only warns when a 20 KB PNG decodes to half a gigabyte; this module checks the size in the header before it
decodes a pixel.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from PIL import Image, ImageOps

from vlibrary.domain.errors import InvalidImage

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 25_000_000
MAX_TOTAL_PIXELS = 100_000_000  # per request: 300 MB of RGB
MAX_ASPECT = 100


def decode_images(encoded: Sequence[bytes]) -> list[Image.Image]:
    """Return the images as upright RGB.

    Raises InvalidImage as `decode_image` does, and before decoding for more than MAX_TOTAL_PIXELS.
    """
    pixels = 0
    for data in encoded:
        with _reading(data) as picture:
            pixels += picture.width * picture.height
    if pixels > MAX_TOTAL_PIXELS:
        raise InvalidImage(
            f"The {len(encoded)} images have {pixels:,} pixels in total.",
            f"Send fewer, or scale them down to {MAX_TOTAL_PIXELS:,} pixels in total.",
        )
    return [decode_image(data) for data in encoded]


def decode_image(data: bytes) -> Image.Image:
    """Return the image as upright RGB.

    Raises InvalidImage unless it is a readable, single-frame PNG, JPEG or WebP of at most MAX_PIXELS.
    """
    with _reading(data) as picture:
        picture.load()
        return ImageOps.exif_transpose(picture).convert("RGB")


@contextmanager
def _reading(data: bytes) -> Iterator[Image.Image]:
    """Open the image and check its header; any error of Pillow inside the block becomes InvalidImage."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_header(picture)
        yield picture
    except InvalidImage:
        raise
    except Exception as error:  # Pillow's parsers raise arbitrary exceptions for malformed bytes
        raise InvalidImage(
            f"The image cannot be read ({len(data)} bytes, {type(error).__name__}).",
            "Send a complete PNG, JPEG or WebP file.",
        ) from error


def _check_header(picture: Image.Image) -> None:
    """Check size, aspect ratio and frame count, without decoding a pixel."""
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise InvalidImage(
            f"The image has {width} × {height} pixels.", f"Scale it down to at most {MAX_PIXELS:,} pixels."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidImage(
            f"The image has an extreme aspect ratio: {width} × {height}.", f"Use at most {MAX_ASPECT} : 1."
        )
    if getattr(picture, "n_frames", 1) != 1:
        raise InvalidImage("The image is animated.", "Send a single frame as PNG, JPEG or WebP.")
