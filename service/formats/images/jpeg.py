"""JPEG files. Sources: ITU-T T.81, annex B; ICC.1:2022, annex B.4."""

from __future__ import annotations

import io
from collections.abc import Iterator

from PIL.JpegImagePlugin import JpegImageFile

from vlibrary.formats.images.container import Container
from vlibrary.formats.images.tiff import read_orientation

_ICC = b"ICC_PROFILE\0"
_STANDALONE = {0x00, 0x01, *range(0xD0, 0xD9)}  # markers without a length
_START_OF_SCAN, _END_OF_IMAGE, _APP1, _APP2 = 0xDA, 0xD9, 0xE1, 0xE2
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
# Application segments and comments, without JFIF's and Adobe's, which say how the colours are coded.
_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}


def open_jpeg(data: bytes) -> Container:
    """Open the first image of the file; others, such as previews and depth maps (MPF), come after its end."""
    exif, profile, progressive = b"", {}, False
    kept, end = [data[:2]], 2
    for marker, start, end in _iter_segments(data):
        if marker not in _METADATA:
            kept.append(data[start:end])
            progressive |= marker in _PROGRESSIVE
        elif marker == _APP1 and not exif and data.startswith(b"Exif\0", start + 4):
            exif = data[start + 4 : end]
        elif marker == _APP2 and data.startswith(_ICC, start + 4):
            number = start + 4 + len(_ICC)
            profile[data[number : number + 1]] = data[number + 2 : end]
    return Container(
        JpegImageFile(io.BytesIO(b"".join([*kept, data[end:]]))),
        orientation=read_orientation(exif),
        profile=b"".join(profile[number] for number in sorted(profile)),
        extra_bytes=6 if progressive else 0,  # 2 for each of up to 3 components
    )


def _iter_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of the segments before the first scan."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            return
        if marker in _STANDALONE:
            at += 2
        elif marker == 0xFF:  # a fill byte
            at += 1
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
            yield marker, at, end
            at = end
