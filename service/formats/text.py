"""Text of users as bytes: UTF-8 only, and never altered."""

from __future__ import annotations

# What the first bytes of a file say about its encoding, the longest mark first.
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_BOM = b"\xef\xbb\xbf"


class NotUtf8(ValueError):
    """The bytes are not UTF-8; the message names the first wrong byte and its place, or the encoding they are in."""


def decode_utf8(data: bytes) -> str:
    """Return the text without its byte order mark. Raises NotUtf8."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            raise NotUtf8(f"it is encoded in {encoding}, not in UTF-8")
    body = data.removeprefix(_BOM)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        before = body[: error.start].decode("utf-8")
        line, column = place(before, len(before))
        offset = len(data) - len(body) + error.start
        raise NotUtf8(
            f"line {line}, column {column}: byte 0x{body[error.start]:02X} at offset {offset} is not UTF-8"
        ) from error


def encode_utf8(text: str) -> bytes:
    """Return the text as UTF-8.

    Raises NotUtf8 for half a surrogate pair, by which Python represents a byte of a command-line argument or file name
    that is not UTF-8.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        wrong = f"byte 0x{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else f"U+{code:04X}"
        raise NotUtf8(f"character {error.start + 1}, {wrong}, is not UTF-8") from error


def place(text: str, index: int) -> tuple[int, int]:
    """Return line and column of a character, both from 1. Only a line feed ends a line."""
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)
