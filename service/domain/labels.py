"""Rules for what users attach to vectors: tags, metadata, parents and aliases."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any
from unicodedata import category, combining, normalize

from vlibrary.domain.errors import InvalidCard, InvalidInput

MetadataValue = str | int | float | bool

MAX_TAGS = 64
MAX_TAG = 64
MAX_TAG_CODE_POINTS = 4 * MAX_TAG  # no character has more in any normal form
MAX_METADATA = 64
MAX_METADATA_TEXT = 500
MAX_PARENTS = 64
METADATA_KEY_PATTERN = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
ALIAS_PATTERN = r"^(?!v?[0-9]+$|latest$)[a-z0-9][a-z0-9._-]{0,63}$"  # not a version
ACTOR_PATTERN = r"^[!-~]([ -~]{0,126}[!-~])?$"  # printable ASCII, for logs
VECTOR_ID_PATTERN = r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$"  # a ULID
# Invisible characters that words and emoji need: joiners after a character that is not ASCII, and the tags that make a
# flag of a region.
_JOINERS = re.compile("(?<=[^\x00-\x7f\u200c\u200d])[\u200c\u200d]|(?<=\U0001f3f4)[\U000e0020-\U000e007e]+\U000e007f")
# Above it, doubles cannot represent every integer, in JSON parsers and in range comparisons.
MAX_INTEGER = 2**53 - 1


def check_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tags sorted and unique, in Unicode's normal form NFC. Raises InvalidCard."""
    composed = [normalize("NFC", tag) for tag in tags]
    for tag in composed:
        if not _is_tag(tag):
            raise InvalidCard(
                f"Invalid tag {tag!r:.200}.",
                f"Use 1 to {MAX_TAG} visible characters without leading or trailing spaces. Joiners (U+200C, U+200D) "
                "may follow characters that are not ASCII.",
            )
    unique = tuple(sorted(set(composed)))
    if len(unique) > MAX_TAGS:
        raise InvalidCard(f"There are {len(unique)} tags.", f"Use at most {MAX_TAGS}.")
    return unique


def _is_tag(tag: str) -> bool:
    # Combining marks are not counted: NFC replaces some characters by a base character and a mark, and a tag that was
    # valid before stays so.
    length = sum(not combining(character) for character in tag)
    if not tag or length > MAX_TAG or len(tag) > MAX_TAG_CODE_POINTS or tag != tag.strip():
        return False
    return not any(_is_invisible(character) for character in _JOINERS.sub("", tag))


def _is_invisible(character: str) -> bool:
    """Return whether it is a control, format or private character, a space other than U+0020, or not a character.

    Unassigned characters are visible: they are those of later Unicode versions, such as new emoji.
    """
    kind, code = category(character), ord(character)
    if kind == "Cn":
        return code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return kind[0] in "CZ" and character != " "


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


def check_actor(actor: str) -> str:
    """Return the actor. Raises InvalidInput unless the audit log can store it and an HTTP header can carry it."""
    if not re.fullmatch(ACTOR_PATTERN, actor):
        raise InvalidInput(f"Invalid actor {actor!r:.80}.", "Use 1 to 128 printable ASCII characters.")
    return actor


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
