"""Base64 and data URLs as clients really write them."""

from __future__ import annotations

import base64
import re
from urllib.parse import unquote

_DATA_URL = re.compile(r"\s*data:([^,]*),(.*)", re.IGNORECASE | re.DOTALL)
_ADDRESS = re.compile(r"\s*(https?|ftp|file):", re.IGNORECASE)
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]")
_URL_SAFE = str.maketrans("-_", "+/")
_QUARTET = 4


def decode_base64(text: str) -> bytes:
    """Return the bytes of base64 text (RFC 4648), or of a data URL (RFC 2397) with any parameters.

    Line breaks are ignored, padding may be missing, and the URL-safe alphabet is read too. Spaces must separate groups
    of equal length, with padding: elsewhere they are what forms make of "+". Raises ValueError that says what is wrong.
    """
    if _ADDRESS.match(text):
        raise ValueError("the service does not fetch addresses; send the content as base64 or as a data URL")
    url = _DATA_URL.fullmatch(text)
    if url is not None:
        text = unquote(url[2], errors="strict") if "%" in url[2] else url[2]
    digits, _, padding = _join(text).partition("=")
    if padding.strip("=") or len(padding) > 1:
        raise ValueError("it continues after its padding (=)")
    digits = _standard(digits)
    if len(digits) % _QUARTET == 1:
        raise ValueError(f"it has {len(digits)} characters, which is not a whole number of bytes; it seems to be cut")
    return base64.b64decode(digits + "=" * (-len(digits) % _QUARTET), validate=True)


def _standard(digits: str) -> str:
    """Return the digits in the standard alphabet. Raises ValueError."""
    if "-" in digits or "_" in digits:
        if "+" in digits or "/" in digits:
            raise ValueError("it mixes the alphabets of base64 and of URL-safe base64")
        digits = digits.translate(_URL_SAFE)
    wrong = _NOT_BASE64.search(digits)
    if wrong is not None:
        raise ValueError(f"character {wrong.start() + 1} is {wrong[0]!r}")
    return digits


def _join(text: str) -> str:
    """Return the text without white space. Raises ValueError for spaces that may have been "+"."""
    groups = text.split()
    joined = "".join(groups)
    if " " in text or "\t" in text:
        lengths = {len(group) for group in groups[:-1]}
        if len(joined) % _QUARTET or len(lengths) > 1 or any(length % _QUARTET for length in lengths):
            raise ValueError('it has spaces at irregular places; a "+" in a URL or in a form must be sent as %2B')
    return joined
