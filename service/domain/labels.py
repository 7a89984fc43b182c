"""Rules for what users attach to vectors: tags, metadata, parents and aliases."""

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
ALIAS_PATTERN = r"^(?!v?[0-9]+$|latest$)[a-z0-9][a-z0-9._-]{0,63}$"  # not a version
ACTOR_PATTERN = r"^[!-~]([ -~]{0,126}[!-~])?$"  # printable ASCII, for logs
VECTOR_ID_PATTERN = r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$"  # a ULID
# Above it, doubles cannot represent every integer, in JSON parsers and in range comparisons.
MAX_INTEGER = 2**53 - 1


def check_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tags sorted and unique. Raises InvalidCard."""
    for tag in tags:
        if not (0 < len(tag) <= MAX_TAG and tag.isprintable() and tag == tag.strip()):
            raise InvalidCard(
                f"Invalid tag {tag!r}.",
                f"Use 1 to {MAX_TAG} printable characters without leading or trailing spaces.",
            )
    unique = tuple(sorted(set(tags)))
    if len(unique) > MAX_TAGS:
        raise InvalidCard(f"There are {len(unique)} tags.", f"Use at most {MAX_TAGS}.")
    return unique


def same_metadata(one: Mapping[str, MetadataValue], other: Mapping[str, MetadataValue]) -> bool:
    """Return whether both are equal, types included: in Python, 1 == True."""
    typed = ({key: (type(value), value) for key, value in metadata.items()} for metadata in (one, other))
    return next(typed) == next(typed)


def check_metadata(metadata: Mapping[str, MetadataValue]) -> None:
    """Raise InvalidCard unless every key and value can be stored, compared and returned exactly."""
    if len(metadata) > MAX_METADATA:
        raise InvalidCard(f"The metadata has {len(metadata)} entries.", f"Use at most {MAX_METADATA}.")
    for key, value in metadata.items():
        if not is_metadata_key(key):
            raise InvalidCard(
                f"Invalid metadata key {key!r}.",
                "Use 1 to 64 letters, digits, dots, dashes and underscores, starting with a letter.",
            )
        if not is_metadata_value(value):
            raise InvalidCard(
                f"Invalid value of metadata.{key}: {value!r:.80}.",
                f"Use true or false, a finite number (integers up to 2**53 - 1), or a text of at most "
                f"{MAX_METADATA_TEXT} characters.",
            )


def check_parents(derived_from: tuple[str, ...]) -> None:
    """Raise InvalidCard unless these are unique vector ids; the vectors need not be in this library."""
    for vector_id in derived_from:
        if not re.fullmatch(VECTOR_ID_PATTERN, vector_id):
            raise InvalidCard(
                f"Invalid vector id {vector_id!r} in derived_from.", "Use ids such as 01K9Z4T0XJ4V6W8M2Q5R7S9A1B."
            )
    if len(set(derived_from)) < len(derived_from) or len(derived_from) > MAX_PARENTS:
        raise InvalidCard(
            f"derived_from has {len(derived_from)} ids, {len(set(derived_from))} of them different.",
            f"List each id once, and at most {MAX_PARENTS}.",
        )


def check_alias(alias: str) -> None:
    """Raise InvalidInput for an invalid alias name."""
    if not re.fullmatch(ALIAS_PATTERN, alias):
        raise InvalidInput(
            f"Invalid alias {alias!r}.",
            "Use 1 to 64 of a-z, 0-9, dot, dash and underscore, starting with a letter or digit, and not a version "
            "such as 3, v3 or latest.",
        )


def is_metadata_key(key: str) -> bool:
    """Return whether metadata may have this key."""
    return re.fullmatch(METADATA_KEY_PATTERN, key) is not None


def is_metadata_value(value: object) -> bool:
    """Return whether metadata may have this value."""
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
