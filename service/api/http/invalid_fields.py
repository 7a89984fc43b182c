"""The invalid fields of a request: JSON pointers (RFC 6901) that resolve in what was sent, and plain messages.

pydantic's own locations contain the names of union members and validators, which no request contains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from vlibrary.formats.strict_json import PLAIN_MESSAGES

Step = str | int

MAX_FIELDS = 16
# Errors that are looked at: members of a union report one each for the same field.
MAX_ERRORS = 128
# Of a pointer or message in an answer, in bytes: a name may be as long as the body.
MAX_TEXT_BYTES = 256
_EXPECTED = "Input should be "


@dataclass(frozen=True)
class InvalidField:
    """A field, and what is wrong with it. kind: pydantic's type of the error."""

    pointer: str
    detail: str
    kind: str


@dataclass(frozen=True)
class _Found:
    """One error. inexact: pydantic's location had steps that the request does not have."""

    path: tuple[Step, ...]
    detail: str
    kind: str
    inexact: bool


def invalid_fields(errors: Iterable[Mapping[str, Any]], body: Any) -> list[InvalidField]:
    """Return the invalid fields of a request, each once.

    errors: as pydantic lists them, located from "body", "query", "path" or "header"; the first MAX_ERRORS count.
    body: what was sent. Texts longer than MAX_TEXT_BYTES are cut, and end with an ellipsis.
    """
    found = [_locate(error, body) for error in islice(errors, MAX_ERRORS)]
    fields: dict[str, list[_Found]] = {}
    for one in found:
        # A union reports what each of its members expects: the member that fits best has the deepest location.
        if one.inexact and any(
            len(other.path) > len(one.path) and other.path[: len(one.path)] == one.path for other in found
        ):
            continue
        pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in one.path)
        fields.setdefault(pointer, []).append(one)
    invalid = []
    for pointer, same in fields.items():
        first, *others = dict.fromkeys(one.detail for one in same)
        detail = first + "".join(f", or {other.removeprefix(_EXPECTED)}" for other in others)
        invalid.append(InvalidField(_shorten(pointer), _shorten(detail), same[0].kind))
    return invalid


def field_name(pointer: str) -> str:
    """Return the pointer of a field of the body as a dotted name; empty for the body itself."""
    steps = pointer.removeprefix("/body").strip("/").split("/")
    return ".".join(step.replace("~1", "/").replace("~0", "~") for step in steps)


def _locate(error: Mapping[str, Any], body: Any) -> _Found:
    place, *location = error["loc"]
    kind, detail = error["type"], error["msg"].removeprefix("Value error, ")
    missing = kind == "missing"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        location.append(error["ctx"]["discriminator"].strip("'"))
        missing = kind == "union_tag_not_found"
        kind = "missing" if missing else "literal_error"
        expected = "" if missing else f"one of {error['ctx']['expected_tags']}, not {error['ctx']['tag']!r:.80}"
        detail = "Field required" if missing else f"{_EXPECTED}{expected}"
    elif kind == "contradiction":
        location.append(error["ctx"]["field"])
    elif kind in PLAIN_MESSAGES:
        detail = PLAIN_MESSAGES[kind]
    if place != "body":
        return _Found((place, *location), detail, kind, inexact=False)
    path = _resolve(location, body, missing)
    return _Found((place, *path), detail, kind, inexact=len(path) < len(location))


def _resolve(location: Sequence[Step], value: Any, missing: bool) -> tuple[Step, ...]:
    """Return the steps of the location that the value has.

    A step that is not the value's may have the name of one of its fields: a part of the type "text" has a field `text`.
    So the last step decides, which names the invalid field. missing: the value does not have it.
    """
    if not location:
        return ()
    step, rest = location[0], location[1:]
    if not _contains(value, step):
        last = missing and not rest and isinstance(value, Mapping)
        return (step,) if last else _resolve(rest, value, missing)
    taken = (step, *_resolve(rest, value[step], missing))
    if taken[-1] == location[-1]:
        return taken
    skipped = _resolve(rest, value, missing)
    return skipped if skipped and skipped[-1] == location[-1] else taken


def _contains(value: Any, step: Step) -> bool:
    if isinstance(value, Mapping):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value)


def _shorten(text: str) -> str:
    """Return the text, or its beginning. Control characters count as the six bytes that JSON escapes them with."""
    size = 0
    for at, character in enumerate(text):
        size += 6 if character < " " else len(character.encode(errors="replace"))
        if size > MAX_TEXT_BYTES:
            return text[:at] + "…"
    return text
