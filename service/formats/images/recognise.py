"""Recognising what a file is by its content, so that an error can name it."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What a file begins with, and what to call it. Sources: the formats' specifications and file(1).
_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "a BigTIFF file"),
    (b"MM\0+", "a BigTIFF file"),
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript file"),
    (b"8BPS", "a Photoshop file"),
    (b"\xff\x0a", "a JPEG XL file"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (b"\0\0\1\0", "an icon (ICO) file"),
    (b"\x8aMNG", "an MNG file"),
    (b"\x76\x2f\x31\x01", "an OpenEXR file"),
    (b"#?RADIANCE", "a Radiance HDR file"),
    (b"DDS ", "a DDS file"),
    (b"qoif", "a QOI file"),
    (b"gimp xcf", "a GIMP file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3 file"),
    (b"\x93NUMPY", "a NumPy array file"),
    (b"version https://git-lfs", "a Git LFS pointer, which stands for a file that was not downloaded"),
)
_RIFF = {b"WEBP": "WEBP", b"AVI ": "an AVI video", b"WAVE": "a WAV file"}
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_NETPBM = re.compile(rb"P[1-7]\s")
_BASE64 = re.compile(rb"(data:[^,]{0,100},)?[A-Za-z0-9+/_\s-]{32,}={0,2}\s*", re.IGNORECASE)
_LOOKED_AT = 2_048


def recognise(data: bytes) -> str:
    """Return one of IMAGE_FORMATS, or a phrase for anything else, such as "a HEIC file" or "an HTML page"."""
    for beginning, name in _BEGINNINGS:
        if data.startswith(beginning):
            return name
    if data.startswith(b"RIFF"):
        return _RIFF.get(data[8:12], "an unknown file")
    if data[4:8] == b"ftyp":
        return _recognise_iso_media(data)
    if _NETPBM.match(data):
        return "a Netpbm file"
    return _recognise_text(data) if data else "empty"


def list_formats(formats: Sequence[str]) -> str:
    """Return the formats for a message: "PNG, JPEG, WebP or GIF"."""
    names = ["WebP" if name == "WEBP" else name for name in formats]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _recognise_iso_media(data: bytes) -> str:
    """AVIF, HEIC and videos share one container; brands in its first box tell them apart."""
    box = data[8 : min(int.from_bytes(data[:4]), 256)]
    brands = {box[:4], *(box[at : at + 4] for at in range(8, len(box), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & _HEIC_BRANDS:
        return "a HEIC file"
    return "a camera raw file (CR3)" if b"crx " in brands else "an MP4 or QuickTime video"


def _recognise_text(data: bytes) -> str:
    start = data[:_LOOKED_AT].removeprefix(b"\xef\xbb\xbf").lstrip()
    low = start.lower()
    if low.startswith(b"<"):
        if re.search(rb"<(\w+:)?svg[\s>]", low):
            return "an SVG drawing"
        return "an HTML page" if re.search(rb"<(!doctype html|html|head|body)[\s>]", low) else "an XML or HTML file"
    if low.startswith((b"http://", b"https://", b"file://")):
        return "the text of a URL"
    if _BASE64.fullmatch(start) and len(start) >= min(len(data), _LOOKED_AT) // 2:
        return "base64 text, which was probably encoded twice"
    try:
        text = start.decode("utf-8", "strict" if len(data) <= _LOOKED_AT else "ignore")
    except UnicodeDecodeError:
        return "an unknown file"
    if not text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
        return "an unknown file"
    return "a JSON file" if low.startswith((b"{", b"[")) else "a text file"
