"""An opened image file."""

from __future__ import annotations

from dataclasses import dataclass

from PIL.ImageFile import ImageFile


@dataclass(frozen=True)
class Container:
    """An opened image file, of which no pixel is decoded.

    Metadata must not decide whether an image can be read: Pillow refuses files for their text chunks and EXIF tags.
    So each format's module reads the orientation and the colour profile itself, and gives Pillow the file without the
    rest.

    image: Pillow's image; of the metadata it has only transparency.
    orientation: as in EXIF, 1 to 8. profile: the ICC profile, empty without one.
    several: "animated" or "a file of several pages" if there is more than one image to show.
    covered: the part of the image that has pixels (left, upper, right, lower); None for all of it.
    low: of 16-bit colours, the lower bytes; only where they are compared with a transparent colour.
    bits: of a greyscale sample of more than 8; None if samples are signed. white_is_zero: whether 0 is white.
    extra_bytes: per pixel, what the decoder takes in addition to the decoded image, even if that is scaled down.
    """

    image: ImageFile
    orientation: int = 1
    profile: bytes = b""
    several: str | None = None
    covered: tuple[int, int, int, int] | None = None
    low: ImageFile | None = None
    bits: int | None = 16
    white_is_zero: bool = False
    extra_bytes: int = 0
