"""JSON from strangers: only what every store can keep and every answer can repeat."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from vlibrary.domain.labels import is_storable

# Far more than any card needs, and far less than what a serialiser gives up at.
MOST_NESTED = 32


def parse(text: str | bytes) -> Any:
    """The JSON value. Raises ValueError for anything but JSON, and for JSON that says a name twice, a number that no
    double can hold, a text with a NUL or half a surrogate pair, or more than MOST_NESTED values within each other."""
    try:
        value = json.loads(
            text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole, object_pairs_hook=_unique
        )
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _check_nesting(value)
    if not is_storable(value):
        raise ValueError("a text holds a NUL or half a surrogate pair")
    return value


_TOO_DEEP = f"more than {MOST_NESTED} lists and objects lie within each other"


def _check_nesting(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MOST_NESTED + 1):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _inside(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _whole(text: str) -> int:
    number = int(text)
    try:
        float(number)
    except OverflowError as error:
        raise ValueError(f"{text[:20]}... is too large a number") from error
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name occurs twice")
    return dict(pairs)
