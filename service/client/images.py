"""Images in the forms in which people have them, as base64 for a request."""

from __future__ import annotations

import io
import os
import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vlibrary.domain.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image  # not needed at run time: callers that pass a Pillow image have Pillow

ImageSource: TypeAlias = (
    "bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes] | Image | NDArray[np.uint8]"
)
ImageSources: TypeAlias = "ImageSource | Sequence[ImageSource]"

_KINDS = "a path, bytes, an open binary file, a Pillow image, or a NumPy array of uint8 [H, W], [H, W, 3] or [H, W, 4]"
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_PNG_COLOURS = {1: 0, 3: 2, 4: 6}  # channels -> colour type
_ORIENTATION = 0x0112


def encode_images(images: ImageSources) -> list[str]:
    """Return one image or several, each as base64. Raises InvalidInput for a file or object that cannot be read."""
    several = images if isinstance(images, list | tuple) else [images]
    return [b64encode(_read(image)).decode() for image in several]


def _read(image: Any) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = getattr(error, "strerror", None) or str(error)
            raise InvalidInput(f"Cannot read the image {str(image)!r:.200}: {reason}.", f"Pass {_KINDS}.") from error
    if isinstance(image, np.ndarray):
        return _encode_array(image)
    if hasattr(image, "save") and hasattr(image, "getexif"):
        return _encode_picture(image)
    data = image.read() if hasattr(image, "read") else None
    if not isinstance(data, bytes):
        raise InvalidInput(f"An image is of type {type(image).__name__}.", f"Pass {_KINDS}.")
    return data


def _encode_picture(image: Image) -> bytes:
    """Return a PNG with the image's pixels, transparency, orientation and profile."""
    if image.mode not in _PNG_MODES:
        if image.mode in ("I", "F"):  # Pillow would clip the samples
            raise InvalidInput(f"The Pillow image has mode {image.mode}.", "Scale it to 8 bits: mode L or RGB.")
        image = image.convert("LA" if image.mode == "La" else "RGBA" if image.has_transparency_data else "RGB")
    options: dict[str, Any] = {}
    exif = image.getexif()
    if _ORIENTATION in exif:  # Pillow has not applied it to the pixels
        alone = type(exif)()
        alone[_ORIENTATION] = exif[_ORIENTATION]
        options["exif"] = alone
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1, **options)
    return buffer.getvalue()


def _encode_array(array: NDArray[Any]) -> bytes:
    """Return a PNG. Written here, because the client does not depend on Pillow."""
    pixels = array[..., None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in _PNG_COLOURS or not array.size:
        raise InvalidInput(f"The array has shape {list(array.shape)} and type {array.dtype}.", f"Pass {_KINDS}.")
    height, width, channels = pixels.shape
    rows = np.insert(pixels.reshape(height, -1), 0, 0, axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOURS[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
