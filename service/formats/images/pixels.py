"""Pixels of any kind as a viewer shows them: 8-bit sRGB on white."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops

from vlibrary.domain.errors import InvalidImage
from vlibrary.formats.images.container import Container
from vlibrary.formats.images.profiles import build_transform

_GREY_MODES = ("1", "L", "LA", "La")
_SMALL_MODES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}


def pixel_bytes(mode: str) -> int:
    """Return the bytes that Pillow keeps of a pixel of this mode."""
    return _SMALL_MODES.get(mode, 4)


def render(container: Container, part: Image.Image, low: Image.Image | None = None) -> Image.Image:
    """Return a part of the decoded image as RGB.

    Transparent pixels are composited on white, deep greyscale is scaled to 8 bits, and colours are converted from the
    ICC profile to sRGB. low: the same part of `container.low`. Raises InvalidImage for samples without a white.
    """
    if part.mode == "F" or part.mode.startswith("I"):
        part = _scale(container, part)
    mode = "L" if part.mode in _GREY_MODES else "CMYK" if part.mode == "CMYK" else "RGB"
    alpha: Image.Image | None = None
    if low is not None:
        alpha = _compare_with_key(part, low)
    elif part.has_transparency_data:
        if part.mode != "RGBA":
            part = (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
        alpha = part.getchannel("A")
        alpha = None if alpha.getextrema() == (255, 255) else alpha
    transform = build_transform(container.profile, mode) if container.profile else None
    colours = part.convert("RGB") if transform is None else transform.apply(part.convert(transform.input_mode))
    return colours if alpha is None else Image.composite(colours, Image.new("RGB", part.size, "white"), alpha)


def _scale(container: Container, part: Image.Image) -> Image.Image:
    """Scale greyscale samples of 12, 16 or 32 bits to 8; the transparent value, if there is one, becomes alpha."""
    if part.mode == "F" or container.bits is None:
        kind = "floating-point" if part.mode == "F" else "signed"
        raise InvalidImage(f"The image has {kind} samples, which have no defined white.", "Save it with 8 or 16 bits.")
    samples = np.asarray(part)
    if part.mode == "I":
        samples = samples.view(np.uint32)
    levels = np.rint(samples * (255 / (2**container.bits - 1))).astype(np.uint8)
    grey = Image.fromarray(255 - levels if container.white_is_zero else levels)
    if "transparency" in part.info:
        grey.putalpha(Image.fromarray((samples != part.info["transparency"]).astype(np.uint8) * 255))
    return grey


def _compare_with_key(part: Image.Image, low: Image.Image) -> Image.Image:
    """Return the alpha channel of 16-bit colours, of which one is transparent: where any byte differs from it."""
    alpha = Image.new("L", part.size)
    for channel, value in enumerate(part.info["transparency"]):
        for image, byte in ((part, value >> 8), (low, value & 255)):
            different = image.getchannel(channel).point([255 * (level != byte) for level in range(256)])
            alpha = ImageChops.lighter(alpha, different)
    return alpha
