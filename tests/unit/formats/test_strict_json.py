"""Strict JSON: values come back unchanged, and what is refused is named with its place."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlibrary.formats import strict_json
from vlibrary.formats.strict_json import MAX_DEPTH, InvalidJson
from vlibrary.formats.text import NotUtf8, decode_utf8, encode_utf8

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(value=VALUES, escaped=st.booleans(), mark=st.booleans())
def test_every_json_value_is_read_unchanged(value: Any, escaped: bool, mark: bool) -> None:
    data = json.dumps(value, ensure_ascii=escaped).encode("utf-8-sig" if mark else "utf-8")
    assert strict_json.parse(data) == value


@given(values=st.lists(VALUES), ending=st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n"]))
def test_lines_end_at_line_feeds_only(values: list[Any], ending: str) -> None:
    lines = [json.dumps(value, ensure_ascii=False) + ending for value in values]
    assert [value for _, value in strict_json.parse_lines("".join(lines).encode())] == values


@given(text=st.text())
def test_any_text_is_a_value_or_an_error_with_its_place(text: str) -> None:
    found = InvalidJson("", 1, 1)
    with suppress(NotUtf8):
        try:
            strict_json.parse(text)
        except InvalidJson as error:
            found = error
    lines = text.split("\n")
    assert 1 <= found.line <= len(lines)
    assert 1 <= found.column <= len(lines[found.line - 1]) + 1


@given(data=st.binary())
def test_bytes_decode_exactly_or_are_refused(data: bytes) -> None:
    try:
        text = decode_utf8(data)
    except NotUtf8:
        with pytest.raises(UnicodeDecodeError):
            data.decode()
    else:
        assert encode_utf8(text) == data.removeprefix(b"\xef\xbb\xbf")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: the text is empty"),
        ('{"a": 1,\n "a": 2}', "line 2, column 2: the name 'a' occurs twice in the object"),
        ('{"a": {"b": 1}, "\\u0061" : 2}', "line 1, column 17: the name 'a' occurs twice in the object"),
        ('["\\ud800"]', "line 1, column 2: the text contains half a surrogate pair"),
        ('{"\\udfff": 1}', "line 1, column 2: the text contains half a surrogate pair"),
        ('"\\u0000"', "line 1, column 1: the text contains a NUL"),
        ("[1,\n\n NaN]", "line 3, column 2: NaN is not a JSON number"),
        ("[-Infinity]", "line 1, column 2: -Infinity is not a JSON number"),
        ('["1e999", -1e999]', "line 1, column 11: the number -1e999... is too large"),
        ("9" * 309, "line 1, column 1: the number 99999999999999999999... is too large"),
        ("[" + "9" * 100_000, "line 1, column 2: the number 99999999999999999999... is too large"),
        (
            "[" * (MAX_DEPTH + 1),
            f"line 1, column {MAX_DEPTH + 1}: lists and objects are nested more than 32 levels deep",
        ),
        ('{"a":' * 100_000, "line 1, column 161: lists and objects are nested more than 32 levels deep"),
        ('"a\tb"', "line 1, column 3: invalid control character"),
        ('"' + '\\"' * 200_000, "line 1, column 1: unterminated string"),
        ("{'a': 1}", "line 1, column 2: expecting property name enclosed in double quotes"),
        ("[1] [2]", "line 1, column 5: extra data"),
        ("[1,]", "line 1, column 4: expecting value"),
    ],
)
def test_what_is_refused_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InvalidJson) as caught:
        strict_json.parse(text)
    assert str(caught.value) == message


def test_equal_names_in_different_objects_and_in_values_are_allowed() -> None:
    assert strict_json.parse('{"a": [{"a": "a"}, {"a": ["a", "a"]}], "b": {"a": "b"}}')["b"] == {"a": "b"}


def test_emoji_written_as_a_surrogate_pair_is_one_character() -> None:
    assert strict_json.parse(r'"\ud83d\ude00"') == "\N{GRINNING FACE}"


def test_the_place_in_a_file_of_lines_is_that_in_the_file() -> None:
    data = b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": 1, "a": 2}\r\n'
    with pytest.raises(InvalidJson, match="line 3, column 10: the name 'a' occurs twice"):
        list(strict_json.parse_lines(data))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_other_unicode_encodings_are_refused_by_name(encoding: str) -> None:
    for read in (strict_json.parse, lambda data: list(strict_json.parse_lines(data))):
        with pytest.raises(NotUtf8, match=r"it is encoded in UTF-(16|32)"):
            read('{"a": "ö"}'.encode(encoding))


def test_a_byte_that_is_not_utf_8_is_named_with_its_place() -> None:
    with pytest.raises(NotUtf8, match="line 2, column 3: byte 0xF6 at offset 8 is not UTF-8"):
        decode_utf8("ü\nß€".encode()[:5] + b"\xe2\x82\xac\xf6")
    with pytest.raises(NotUtf8, match="character 3, byte 0xDF, is not UTF-8"):
        encode_utf8(b"Gr\xdfe".decode("utf-8", "surrogateescape"))
