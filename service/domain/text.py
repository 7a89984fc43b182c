"""Which texts every store can keep."""

from __future__ import annotations

import json
from typing import Any


def is_storable(value: Any) -> bool:
    """Whether all texts in a JSON value are valid Unicode without NUL, which some databases cannot hold."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
        return False
    return "\\u0000" not in text
