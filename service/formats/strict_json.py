"""Strict parsing of untrusted JSON: only values that every store can save and every response can repeat."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import ValidationError

from vlibrary.domain.labels import is_storable

# Far more than a card needs, and far below what serialisers support.
MAX_DEPTH = 32
_TOO_DEEP = f"lists and objects are nested more than {MAX_DEPTH} levels deep"


def parse(text: str | bytes) -> Any:
    """Return the JSON value.

    Raises ValueError for text that is not JSON, and for JSON with a duplicate name, a number beyond the range of a
    double, a NUL, half a surrogate pair, or more than MAX_DEPTH levels of nesting.
    """
    try:
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_parse_float,
            parse_int=_parse_int,
            object_pairs_hook=_object_without_duplicates,
        )
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _check_depth(value)
    if not is_storable(value):
        raise ValueError("a text contains a NUL or half a surrogate pair")
    return value


def explain(error: ValidationError) -> str:
    """Return the first problems that pydantic found as `field.name: what is wrong`, without the values."""
    problems = []
    for one in error.errors(include_url=False, include_input=False, include_context=False)[:5]:
        # pydantic's own text names the Python class.
        text = "Input should be an object" if one["type"] in ("model_type", "dataclass_type") else one["msg"]
        where = ".".join(map(str, one["loc"]))
        problems.append(f"{where}: {text}" if where else text)
    return "; ".join(problems)


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list)))
        level = [inner for container in containers for inner in container]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _parse_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _parse_int(text: str) -> int:
    number = int(text)
    try:
        float(number)
    except OverflowError as error:
        raise ValueError(f"the number {text[:20]}... is too large") from error
    return number


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in an object")
    return found
