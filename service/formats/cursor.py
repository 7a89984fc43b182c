"""Page cursors: opaque to clients and versioned, so that a cursor of another release is refused."""

from __future__ import annotations

import base64
import re

from vlibrary.domain.errors import InvalidInput


def encode_cursor(seq: int) -> str:
    """Return the cursor of the page after the record with this seq."""
    return base64.urlsafe_b64encode(f"v1:{seq}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    """Return the seq in the cursor. Raises InvalidInput for a cursor that `encode_cursor` did not return."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except ValueError:
        text = ""
    match = re.fullmatch(r"v1:([0-9]{1,18})", text, re.ASCII)
    if match is None or encode_cursor(int(match[1])) != cursor:
        raise InvalidInput("Invalid cursor.", "Send `next` of the previous page unchanged.")
    return int(match[1])
