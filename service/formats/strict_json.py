"""Strict reading of untrusted JSON and JSON lines: only values that every store can save and every response can repeat.

All JSON files that users write are read here: cards, examples, archives and the headers of artifacts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from vlibrary.domain.labels import MAX_INTEGER
from vlibrary.formats.text import NotUtf8, decode_utf8, encode_utf8, place

# Far more than a card needs, and far below what serialisers support.
MAX_DEPTH = 32
MAX_DIGITS = 400
# In all objects together, and strings, brackets and commas. A card of 4 MiB has fewer; millions would take a minute of
# time and gigabytes to validate.
MAX_NAMES = 20_000
MAX_TOKENS = 500_000
# By pydantic's type of the error: its own text names a Python class, or does not say what to do.
PLAIN_MESSAGES = {
    **dict.fromkeys(
        ("model_type", "model_attributes_type", "dataclass_type", "dict_type"), "Input should be an object"
    ),
    "extra_forbidden": "Unknown field; remove it or check its spelling",
}
_BLANK = " \t\r"
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'  # possessive, so that no text takes quadratic time
# All that `_check` has to see: strings, with the colon after a name; brackets; words that Python takes for numbers. A
# quotation mark alone begins a string that does not end.
_TOKEN = re.compile(rf'{_STRING}(\s*:)?|["\[\]{{}}]|NaN|-?Infinity', re.DOTALL)
_TOKEN_OR_COMMA = re.compile(rf"{_TOKEN.pattern}|,", re.DOTALL)
_NUMBER = re.compile(rf"{_STRING}|-?[0-9][0-9.eE+-]*", re.DOTALL)


class InvalidJson(ValueError):
    """Text that is not JSON, or JSON that is refused. reason: what is wrong. line, column: where, from 1."""

    def __init__(self, reason: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {reason}")
        self.reason = reason
        self.line = line
        self.column = column


def parse(text: str | bytes, *, allow_nul: bool = False, whole_numbers: bool = False) -> Any:
    """Return the JSON value of a text, or of bytes in UTF-8 with or without byte order mark.

    whole_numbers: return 8.0 as an integer, which it is in JSON Schema.

    Raises NotUtf8, and InvalidJson for text that is not JSON, and for JSON with a name that occurs twice in an object,
    a number beyond the range of a double, half a surrogate pair, a NUL, more than MAX_DEPTH levels of nesting, more
    than MAX_NAMES names, or more than MAX_TOKENS strings, brackets and commas.
    """
    if isinstance(text, bytes):
        text = _decode(text)
    else:
        encode_utf8(text)
    _check(text, allow_nul=allow_nul)
    try:
        return json.loads(text, parse_float=_parse_number if whole_numbers else _parse_float, parse_int=_parse_int)
    except json.JSONDecodeError as error:
        if not text.strip(_BLANK + "\n"):
            raise InvalidJson("the text is empty", 1, 1) from error
        if text.startswith("\ufeff"):  # after the one that begins the file; Python's parser names a codec
            raise InvalidJson("it begins with a byte order mark, which only a file may", 1, 1) from error
        reason = error.msg[0].lower() + error.msg[1:].removesuffix(" at").removesuffix(" starting")
        raise InvalidJson(reason, *place(text, error.pos)) from error
    except OverflowError as error:
        raise _find_large_number(text) from error


def parse_lines(data: bytes, *, allow_nul: bool = False) -> Iterator[tuple[int, Any]]:
    """Yield line number and value of each line that is not blank.

    Only a line feed ends a line, after an optional carriage return; other characters that Unicode calls line breaks
    are text. Raises what `parse` raises, with the line's number in the file.
    """
    for number, line in enumerate(_decode(data).split("\n"), start=1):
        if not line.strip(_BLANK):
            continue
        try:
            yield number, parse(line, allow_nul=allow_nul)
        except InvalidJson as error:
            raise InvalidJson(error.reason, number, error.column) from error


def explain(error: ValidationError) -> str:
    """Return the first problems that pydantic found as `field.name: what is wrong`, without the values."""
    problems = []
    for one in error.errors(include_url=False, include_input=False, include_context=False)[:5]:
        text = PLAIN_MESSAGES.get(one["type"], one["msg"])
        where = ".".join(map(str, one["loc"]))
        problems.append(f"{where}: {text}" if where else text)
    return "; ".join(problems)


def _decode(data: bytes) -> str:
    if b"\0" in data[:2]:  # without byte order mark: JSON begins with a character of ASCII, and not with NUL
        raise NotUtf8("it is encoded in UTF-16 or UTF-32, not in UTF-8")
    return decode_utf8(data)


def _check(text: str, *, allow_nul: bool) -> None:
    """Raise InvalidJson for what Python's parser accepts, or reports without the place."""
    names: list[set[str]] = []  # of each open object; empty for a list
    for token in _tokens(text):
        reason = ""
        match token[0][0]:
            case "{" | "[":
                names.append(set())
                if len(names) > MAX_DEPTH:
                    reason = f"lists and objects are nested more than {MAX_DEPTH} levels deep"
            case "}" | "]":
                del names[-1:]
            case '"' if token[0] == '"':
                return  # the parser reports it
            case '"':
                reason = _check_string(token, names[-1] if names else set(), allow_nul=allow_nul)
            case _:
                reason = f"{token[0]} is not a JSON number"
        if reason:
            raise InvalidJson(reason, *place(text, token.start()))


def _tokens(text: str) -> Iterator[re.Match[str]]:
    """Yield the tokens of _TOKEN. Raises InvalidJson for more than MAX_NAMES or MAX_TOKENS, commas included."""
    names = 0
    # Only a longer text can have too many commas.
    pattern = _TOKEN if len(text) <= MAX_TOKENS else _TOKEN_OR_COMMA
    for number, token in enumerate(pattern.finditer(text), start=1):
        names += token[1] is not None
        if names > MAX_NAMES:
            raise InvalidJson(f"the objects have more than {MAX_NAMES:,} names", *place(text, token.start()))
        if number > MAX_TOKENS:
            raise InvalidJson("the lists and objects have too many values", *place(text, token.start()))
        if token[0] != ",":
            yield token


def _check_string(token: re.Match[str], names: set[str], *, allow_nul: bool) -> str:
    """Return what is wrong with the string. names: those of the object so far, to which it is added if it is one."""
    is_name = token[1] is not None
    if not is_name and "\\u" not in token[0]:
        return ""
    try:
        value = json.loads(token[0].removesuffix(token[1] or ""))
    except ValueError:
        return ""  # the parser reports it
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "the text contains half a surrogate pair"
    if "\0" in value and not allow_nul:
        return "the text contains a NUL"
    if is_name:
        if value in names:
            return f"the name {value!r:.80} occurs twice in the object"
        names.add(value)
    return ""


def _find_large_number(text: str) -> InvalidJson:
    """Return the error of the first number that is too large."""
    for token in _NUMBER.finditer(text):
        word = token[0]
        if word[0] != '"' and (math.isinf(float(word)) or _has_too_many_digits(word)):
            return InvalidJson(f"the number {word[:20]}... is too large", *place(text, token.start()))
    raise AssertionError("the parser found a number that is too large")


def _has_too_many_digits(word: str) -> bool:
    return word.lstrip("-").isdigit() and len(word) > MAX_DIGITS


def _parse_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise OverflowError
    return number


def _parse_number(text: str) -> float | int:
    number = _parse_float(text)
    return int(number) if number.is_integer() and abs(number) <= MAX_INTEGER else number


def _parse_int(text: str) -> int:
    if _has_too_many_digits(text):  # Python refuses to read more than 4,300
        raise OverflowError
    number = int(text)
    float(number)
    return number
