"""TIFF files, and EXIF blocks, which have the same structure. Sources: TIFF 6.0; Exif 2.32, section 4.6."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL.TiffImagePlugin import TiffImageFile

from vlibrary.formats.images.container import Container

_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # struct's codes of the integer types
_ENTRY_BYTES = 12
_SUBFILE, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT, _ICC = 254, 258, 262, 274, 339, 34675
_SIGNED = 2  # of _SAMPLE_FORMAT
_PART_OF_ANOTHER_PAGE = 0b101  # of _SUBFILE: a smaller copy, or a mask
# The tags that say how pixels are stored.
_STRUCTURE = {
    *(256, 257, _BITS, 259, _PHOTOMETRIC, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
    *(332, 338, _SAMPLE_FORMAT, 347, *range(512, 522), 529, 530, 531, 532, _ICC),
}
_MAX_PAGES = 100


@dataclass(frozen=True)
class Entry:
    """One tag of a directory. value: its number if it is a single integer, otherwise None; at: where its bytes are."""

    tag: int
    value: int | None
    at: int


def read_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, of an EXIF block; 1 if it has none.

    Entries are read one by one and nothing else is looked at, so no other tag can hide the orientation: none of a
    wrong type, none with an offset out of the block, and no end of the block in the middle of a directory.
    """
    tiff = exif[6:] if exif.startswith(b"Exif\0") else exif
    valid = [
        entry.value
        for entry in _iter_entries(tiff, _first_directory(tiff))
        if entry.tag == _ORIENTATION and entry.value in range(1, 9)
    ]
    return valid[-1] or 1 if valid else 1


def open_tiff(data: bytes) -> Container:
    """Open a TIFF file of one page, which may be followed by smaller copies of it."""
    place = _first_directory(data)
    entries = list(_iter_entries(data, place))
    values = {entry.tag: entry.value for entry in entries}
    image = TiffImageFile(io.BytesIO(_keep_structure(data, place, entries)))
    profile = image.info.get("icc_profile")
    return Container(
        image,
        orientation=read_orientation(data),
        profile=profile if isinstance(profile, bytes) else b"",
        several="a file of several pages" if _has_more_pages(data, place) else None,
        bits=None if values.get(_SAMPLE_FORMAT) == _SIGNED else values.get(_BITS) or 16,
        white_is_zero=values.get(_PHOTOMETRIC) == 0,
    )


def _keep_structure(data: bytes, place: int, entries: list[Entry]) -> bytes:
    """Return the file with one directory that has only the tags for pixels and profile."""
    kept = [data[entry.at : entry.at + _ENTRY_BYTES] for entry in entries if entry.tag in _STRUCTURE]
    directory = struct.pack(_order(data) + "H", len(kept)) + b"".join(kept)
    next_directory = bytes(4) if len(kept) < len(entries) else b""
    directory += next_directory
    return b"".join([data[:place], directory, data[place + len(directory) :]])


def _has_more_pages(data: bytes, place: int) -> bool:
    seen = {place}
    while (place := _next_directory(data, place)) not in {0, *seen}:
        kind = next((entry.value for entry in _iter_entries(data, place) if entry.tag == _SUBFILE), None)
        if not (kind or 0) & _PART_OF_ANOTHER_PAGE or len(seen) >= _MAX_PAGES:
            return True
        seen.add(place)
    return False


def _order(tiff: bytes) -> str:
    """Return struct's sign of the byte order."""
    return ">" if tiff.startswith(b"MM") else "<"


def _first_directory(tiff: bytes) -> int:
    """Return where the first directory is, 0 in a block without one."""
    return int(struct.unpack_from(_order(tiff) + "I", tiff, 4)[0]) if len(tiff) >= 8 else 0


def _next_directory(tiff: bytes, place: int) -> int:
    """Return where the directory after the one at `place` is, 0 after the last."""
    if not 8 <= place <= len(tiff) - 2:
        return 0
    end = place + 2 + struct.unpack_from(_order(tiff) + "H", tiff, place)[0] * _ENTRY_BYTES
    return int(struct.unpack_from(_order(tiff) + "I", tiff, end)[0]) if end + 4 <= len(tiff) else 0


def _iter_entries(tiff: bytes, place: int) -> Iterator[Entry]:
    """Yield the entries of the directory at this place, as far as the block goes."""
    if not 8 <= place <= len(tiff) - 2:
        return
    order = _order(tiff)
    (count,) = struct.unpack_from(order + "H", tiff, place)
    first = place + 2
    for at in range(first, min(first + count * _ENTRY_BYTES, len(tiff) - _ENTRY_BYTES + 1), _ENTRY_BYTES):
        tag, kind, amount = struct.unpack_from(order + "HHI", tiff, at)
        number = _NUMBERS.get(kind) if amount == 1 else None
        yield Entry(tag, None if number is None else struct.unpack_from(order + number, tiff, at + 8)[0], at)
