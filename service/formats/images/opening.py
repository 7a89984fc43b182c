"""Opening a file of any accepted format."""

from __future__ import annotations

import io

from PIL import _avif
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vlibrary.formats.images.container import Container
from vlibrary.formats.images.jpeg import open_jpeg
from vlibrary.formats.images.png import open_png
from vlibrary.formats.images.tiff import open_tiff, read_orientation


def open_container(kind: str, data: bytes) -> Container:
    """Open a file of one of IMAGE_FORMATS. Raises whatever Pillow raises for malformed bytes."""
    return _OPENERS[kind](data)


def _open_webp(data: bytes) -> Container:
    image = WebPImageFile(io.BytesIO(data))
    return Container(
        image,
        orientation=read_orientation(image.info.get("exif", b"")),
        profile=image.info.get("icc_profile", b""),
        several="animated" if image.n_frames > 1 else None,
        extra_bytes=13,  # two canvases and a copy of the pixels; measured with Pillow 13
    )


def _open_gif(data: bytes) -> Container:
    image = GifImageFile(io.BytesIO(data))
    covered = image.tile[0].extents
    return Container(
        image,
        covered=covered,
        several="animated" if image.is_animated else None,
        extra_bytes=0 if covered == (0, 0, *image.size) else 4,  # alpha for what is not covered
    )


class _AvifImageFile(AvifImageFile):
    """Pillow's reader, which would parse and rewrite the whole EXIF block to place the orientation in it."""

    def _open(self) -> None:
        assert self.fp is not None
        self._decoder = _avif.AvifDecoder(self.fp.read(), "auto", 1)
        self._size, self.n_frames, self._mode, profile, _, self.orientation, _ = self._decoder.get_info()
        self.is_animated = self.n_frames > 1
        self.info["icc_profile"] = profile or b""
        self.seek(0)


def _open_avif(data: bytes) -> Container:
    """Open the file; the orientation is that of its container (irot, imir), which counts instead of EXIF's."""
    image = _AvifImageFile(io.BytesIO(data))
    return Container(
        image,
        orientation=image.orientation,
        profile=image.info["icc_profile"],
        several="animated" if image.is_animated else None,
        extra_bytes=6,  # the planes and a copy of the pixels; measured with Pillow 13
    )


_OPENERS = {
    "PNG": open_png,
    "JPEG": open_jpeg,
    "WEBP": _open_webp,
    "GIF": _open_gif,
    "BMP": lambda data: Container(BmpImageFile(io.BytesIO(data))),
    "TIFF": open_tiff,
    "AVIF": _open_avif,
}
