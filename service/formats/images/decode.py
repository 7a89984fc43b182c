"""The limits of decoding, and its entry points.

A 20 KB PNG can decode to half a gigabyte, so sizes are checked in the header, before a pixel is decoded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from vlibrary.domain.errors import InvalidImage
from vlibrary.domain.query import DEFAULT_IMAGE_FORMATS, IMAGE_FORMATS
from vlibrary.formats.images.container import Container
from vlibrary.formats.images.opening import open_container
from vlibrary.formats.images.pixels import pixel_bytes, render
from vlibrary.formats.images.recognise import list_formats, recognise

MAX_PIXELS = 25_000_000  # an image with more is scaled down while it is decoded
MAX_TOTAL_PIXELS = 100_000_000  # per request, after scaling: 400 MB
MAX_ASPECT = 100
MAX_SOURCE_PIXELS = 150_000_000
MAX_JPEG_PIXELS = 250_000_000  # JPEG is scaled by its decoder, which never holds the whole image
MAX_MEMORY = 640 * 2**20  # bytes for decoding one image
_LARGE = 128 * 2**20
_one_large_at_a_time = threading.Lock()  # so that concurrent requests do not take MAX_MEMORY each
_BAND_PIXELS = 2**20
_JPEG_DIVISORS = (1, 2, 4, 8)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class _Plan:
    """How to decode an image. divisor: by which it is scaled down; size: the result's; memory: in bytes."""

    container: Container
    divisor: int
    size: tuple[int, int]
    memory: int


def decode_images(encoded: Sequence[bytes], formats: Sequence[str] = DEFAULT_IMAGE_FORMATS) -> list[Image.Image]:
    """Return the images as upright RGB.

    Raises InvalidImage as `decode_image` does, and before decoding for more than MAX_TOTAL_PIXELS.
    """
    pixels = 0
    for data in encoded if len(encoded) > 1 else ():
        with _open(data, formats) as plan:
            pixels += plan.size[0] * plan.size[1]
    if pixels > MAX_TOTAL_PIXELS:
        raise InvalidImage(
            f"The {len(encoded)} images have {pixels:,} pixels in total.",
            f"Send fewer, or scale them down to {MAX_TOTAL_PIXELS:,} pixels in total.",
        )
    return [decode_image(data, formats) for data in encoded]


def decode_image(data: bytes, formats: Sequence[str] = DEFAULT_IMAGE_FORMATS) -> Image.Image:
    """Return the image as a viewer shows it: upright 8-bit RGB in sRGB, on white where it is transparent.

    An image of more than MAX_PIXELS is scaled down by a whole number until it has at most as many.

    formats: those of IMAGE_FORMATS that are accepted. Raises InvalidImage if the file has none of them, is incomplete
    or animated, or is too large to be decoded within MAX_MEMORY.
    """
    with _open(data, formats) as plan, _one_large_at_a_time if plan.memory > _LARGE else nullcontext():
        image = _decode(plan)
        turn = _UPRIGHT.get(plan.container.orientation)
        return image if turn is None else image.transpose(turn)


@contextmanager
def _open(data: bytes, formats: Sequence[str]) -> Iterator[_Plan]:
    """Open the file and check its header; any error of Pillow inside the block becomes InvalidImage."""
    kind = recognise(data)
    if kind not in formats:
        known = kind in IMAGE_FORMATS
        raise InvalidImage(
            f"The image is {f'in {list_formats([kind])} format, which is not accepted' if known else kind} "
            f"({len(data):,} bytes).",
            f"Send it as {list_formats(formats)}{f', or add {kind} to VLIBRARY_IMAGE_FORMATS' if known else ''}.",
        )
    try:
        yield _make_plan(open_container(kind, data))
    except InvalidImage:
        raise
    except Image.DecompressionBombError as error:
        raise InvalidImage(
            "The image has too many pixels.", f"Scale it down to at most {MAX_PIXELS:,} pixels."
        ) from error
    except Exception as error:  # Pillow's parsers raise arbitrary exceptions for malformed bytes
        raise InvalidImage(
            f"The {list_formats([kind])} image cannot be read: it is damaged or incomplete ({len(data):,} bytes).",
            "Send the complete file, or save it again.",
        ) from error


def _make_plan(container: Container) -> _Plan:
    """Check frames, size and aspect ratio, without decoding a pixel."""
    width, height = container.image.size
    is_jpeg = isinstance(container.image, JpegImageFile)
    if container.several is not None:
        raise InvalidImage(
            f"The image is {container.several}.", "Send the one frame or page that the question is about."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidImage(
            f"The image has an extreme aspect ratio: {width} × {height}.", f"Use at most {MAX_ASPECT} : 1."
        )
    decoded = pixel_bytes(container.image.mode) + (4 if container.low else 0)
    # Half as wide and high: a quarter of 4 bytes for the result, and of the decoded image if it is scaled before.
    scaled = container.extra_bytes + (1 if is_jpeg else decoded) + 1
    most = min(MAX_JPEG_PIXELS if is_jpeg else MAX_SOURCE_PIXELS, MAX_MEMORY // scaled)
    if width * height > most:
        raise InvalidImage(f"The image has {width} × {height} pixels.", f"Scale it down to at most {most:,} pixels.")
    for divisor in _JPEG_DIVISORS if is_jpeg else range(1, MAX_SOURCE_PIXELS):
        size = -(-width // divisor), -(-height // divisor)
        if size[0] * size[1] <= MAX_PIXELS:
            break
    each = container.extra_bytes + decoded + 4 if divisor == 1 else scaled
    return _Plan(container, divisor, size, memory=each * width * height)


def _decode(plan: _Plan) -> Image.Image:
    container, divisor = plan.container, plan.divisor
    image: Image.Image = container.image
    width, height = image.size
    if divisor > 1 and isinstance(image, JpegImageFile):
        image.draft(None, (width // divisor, height // divisor))
        divisor = 1
    image.load()
    if container.low is not None:
        container.low.load()
    if container.covered not in {None, (0, 0, width, height)} and "transparency" not in image.info:
        alpha = Image.new("L", image.size)
        alpha.paste(255, container.covered)
        image = image.convert("RGB")
        image.putalpha(alpha)
    return _render_in_bands(container, image, divisor)


def _render_in_bands(container: Container, image: Image.Image, divisor: int) -> Image.Image:
    """Render some rows at a time, so that the steps in between take little memory."""
    width, height = image.size
    is_plain = image.mode in ("RGB", "P", "L") and not image.has_transparency_data
    if divisor == 1 and (is_plain or width * height <= _BAND_PIXELS):
        return render(container, image, container.low)
    result = Image.new("RGB", (-(-width // divisor), -(-height // divisor)))
    rows = max(1, _BAND_PIXELS // (width * divisor)) * divisor
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        band = render(container, image.crop(box), None if container.low is None else container.low.crop(box))
        result.paste(band if divisor == 1 else band.reduce(divisor), (0, top // divisor))
    return result
