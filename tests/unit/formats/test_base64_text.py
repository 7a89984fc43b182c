"""Base64 as clients write it: every spelling gives the same bytes, and nothing else is read."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlibrary.formats.base64_text import decode_base64

HEADS = ["", "data:image/png;base64,", "DATA:image/png;base64,", "data:;base64,", "data:image/png;name=a.png;BASE64,"]


@given(st.data(), st.binary(min_size=1, max_size=400))
def test_every_spelling_gives_the_same_bytes(data: st.DataObject, content: bytes) -> None:
    urlsafe = data.draw(st.booleans())
    text = (base64.urlsafe_b64encode if urlsafe else base64.b64encode)(content).decode()
    separator = data.draw(st.sampled_from(["", "\n", "\r\n", " ", "\n    "]))
    edges = data.draw(st.sampled_from(["", "\n", " "]))
    if " " not in separator + edges and data.draw(st.booleans()):
        text = text.rstrip("=")
    width = 4 * data.draw(st.integers(1, 30))
    text = separator.join(text[at : at + width] for at in range(0, len(text), width))
    head = data.draw(st.sampled_from(HEADS))
    if head and data.draw(st.booleans()):
        text = quote(text, safe="")
    assert decode_base64(edges + head + text + edges) == content


@given(st.binary(min_size=60, max_size=400))
def test_a_plus_that_became_a_space_is_never_read_as_other_bytes(content: bytes) -> None:
    text = base64.b64encode(content).decode()
    sent = text.replace("+", " ")
    try:
        assert decode_base64(sent) == content
    except ValueError:
        assert sent != text


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_cut_between_quartets_is_refused(content: bytes, data: st.DataObject) -> None:
    text = base64.b64encode(content).decode().rstrip("=")
    cut = data.draw(st.integers(0, len(text) // 4)) * 4 + 1
    if cut <= len(text):
        with pytest.raises(ValueError, match="seems to be cut"):
            decode_base64(text[:cut])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("aGVs*G8=", "character 5 is '\\*'"),
        ("aGVsbG8=aGVsbG8=", "continues after its padding"),
        ("a-b/", "mixes the alphabets"),
        ("https://example.org/a.png", "does not fetch addresses"),
        ("ab cdefg hi", "spaces at irregular places"),
        ("größe", "character 3 is 'ö'"),
    ],
)
def test_other_text_is_refused_with_the_reason(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        decode_base64(text)
