"""What users may say of a vector beside its card's fixed fields: tags, typed metadata and the vectors it comes from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from vlibrary.domain.errors import InvalidCard, InvalidInput

MetadataValue = str | int | float | bool

MAX_TAGS = 64
MAX_TAG = 64
MAX_METADATA = 64
MAX_METADATA_TEXT = 500
MAX_PARENTS = 64
METADATA_KEY_PATTERN = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
ALIAS_PATTERN = r"^(?!v?[0-9]+$|latest$)[a-z0-9][a-z0-9._-]{0,63}$"  # not what reads as a version
ACTOR_PATTERN = r"^[!-~]([ -~]{0,126}[!-~])?$"  # so that every log can show it
VECTOR_ID_PATTERN = r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$"  # a ULID
# Beyond it, JSON readers (and the double that a range is compared as) no longer tell neighbours apart.
MAX_INTEGER = 2**53 - 1


def check_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    """The tags sorted, each once. Raises InvalidCard."""
    for tag in tags:
        if not (0 < len(tag) <= MAX_TAG and tag.isprintable() and tag == tag.strip()):
            raise InvalidCard(
                f"The tag {tag!r} is not allowed.",
                f"Use 1 to {MAX_TAG} printable characters without blanks at the ends.",
            )
    kept = tuple(sorted(set(tags)))
    if len(kept) > MAX_TAGS:
        raise InvalidCard(f"There are {len(kept)} tags.", f"Keep at most {MAX_TAGS} of them.")
    return kept


def same_metadata(one: Mapping[str, MetadataValue], other: Mapping[str, MetadataValue]) -> bool:
    """Whether they say the same, kinds of values included: 1 is not true, though Python takes them as equal."""
    typed = ({key: (type(value), value) for key, value in metadata.items()} for metadata in (one, other))
    return next(typed) == next(typed)


def check_metadata(metadata: Mapping[str, MetadataValue]) -> None:
    """Raises InvalidCard unless every key and value can be kept, compared and given back exactly."""
    if len(metadata) > MAX_METADATA:
        raise InvalidCard(f"The metadata has {len(metadata)} entries.", f"Keep at most {MAX_METADATA} of them.")
    for key, value in metadata.items():
        if not is_metadata_key(key):
            raise InvalidCard(
                f"The metadata key {key!r} is not allowed.",
                "Use 1 to 64 letters, digits, dots, dashes and underscores, starting with a letter.",
            )
        if not is_metadata_value(value):
            raise InvalidCard(
                f"metadata.{key} is {value!r:.80}.",
                f"Give true or false, a finite number (integers up to 2**53 - 1), or a text of at most "
                f"{MAX_METADATA_TEXT} characters.",
            )


def check_parents(derived_from: tuple[str, ...]) -> None:
    """Raises InvalidCard unless these are ids of vectors, each once; they need not be in this library (any more)."""
    for vector_id in derived_from:
        if not re.fullmatch(VECTOR_ID_PATTERN, vector_id):
            raise InvalidCard(
                f"derived_from has {vector_id!r}.", "Give ids of vectors, such as 01K9Z4T0XJ4V6W8M2Q5R7S9A1B."
            )
    if len(set(derived_from)) < len(derived_from) or len(derived_from) > MAX_PARENTS:
        raise InvalidCard(
            f"derived_from names {len(derived_from)} vectors, {len(set(derived_from))} different ones.",
            f"Name each once, and at most {MAX_PARENTS}.",
        )


def check_alias(alias: str) -> None:
    """Raises InvalidInput unless an alias may be called so."""
    if not re.fullmatch(ALIAS_PATTERN, alias):
        raise InvalidInput(
            f"The alias {alias!r} is not allowed.",
            "Use 1 to 64 of a-z, 0-9, dot, dash and underscore, starting with a letter or digit, but nothing that "
            "reads as a version: 3, v3, latest.",
        )


def is_metadata_key(key: str) -> bool:
    """Whether metadata may have this key."""
    return re.fullmatch(METADATA_KEY_PATTERN, key) is not None


def is_metadata_value(value: object) -> bool:
    """Whether metadata may have this value."""
    match value:
        case bool():
            return True
        case int():
            return abs(value) <= MAX_INTEGER
        case float():
            return math.isfinite(value)
        case str():
            return len(value) <= MAX_METADATA_TEXT and is_storable(value)
        case _:
            return False


def is_storable(value: Any) -> bool:
    """Return whether all texts in a JSON value are valid Unicode without NUL, which some databases cannot store."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
        return False
    return "\\u0000" not in text
