"""Validation of tags, metadata, parents and descriptions, and their JSON form."""

from __future__ import annotations

import json
import math
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlibrary.domain.card import VectorCard
from vlibrary.domain.errors import InvalidCard
from vlibrary.domain.labels import check_tags
from vlibrary.domain.registration import Amendment
from vlibrary.formats.card import dump_card, parse_card

PARENT = "01K9Z4T0XJ4V6W8M2Q5R7S9A1B"


def test_tags_are_sorted_and_unique() -> None:
    assert VectorCard("a", tags=("b", "a", "b")).tags == ("a", "b")
    assert Amendment(tags=("b", "a", "b")).tags == ("a", "b")


@pytest.mark.parametrize(
    "tag",
    [
        "Größe",
        "می\u200cخواهم",  # Persian, with a non-joiner
        "क्\u200dष",  # Hindi, with a joiner
        "👩\u200d💻",
        "❤\ufe0f\u200d🔥",
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # the flag of Scotland
        "\U0001fa77",  # an emoji of Unicode 15
        "ệ" * 64,
    ],
)
def test_tags_of_any_language_are_the_same_in_every_normal_form(tag: str) -> None:
    forms = {normalize("NFC", tag), normalize("NFD", tag), tag}
    assert {check_tags((form,)) for form in forms} == {(normalize("NFC", tag),)}


@given(tags=st.lists(st.text(min_size=1, max_size=8), max_size=4).map(tuple))
def test_tags_that_were_valid_before_stay_valid(tags: tuple[str, ...]) -> None:
    """Before 0.2.0 a tag was up to 64 characters that Python calls printable, without outer spaces."""
    old = tuple(tag * 8 for tag in tags if tag.isprintable() and tag == tag.strip())
    found = check_tags(old)
    assert set(found) == {normalize("NFC", tag) for tag in old}
    assert check_tags(found) == found


def test_characters_that_normal_form_splits_count_once() -> None:
    assert check_tags(("\u0958" * 64,)) == ("\u0915\u093c" * 64,)


INVISIBLE = [
    "checked\u200d",
    "\u200dä",
    "ä\u200d\u200d",
    "a\u202eb",
    "\u2066ä",
    "a\xa0b",
    "\ufeffa",
    "\ufffe",
    "\ue000",
]


@pytest.mark.parametrize("tag", ["", " a", "a ", "a\nb", "a\x00", "\ud800", "x" * 65, "e" + "\u0301" * 300, *INVISIBLE])
def test_invalid_tags_are_refused(tag: str) -> None:
    with pytest.raises(InvalidCard):
        check_tags((tag,))


@pytest.mark.parametrize(
    "metadata",
    [
        {"": 1},
        {"a b": 1},
        {"1a": 1},
        {"a" * 65: 1},
        {"a\n": 1},
        {"a": None},
        {"a": [1]},
        {"a": math.nan},
        {"a": math.inf},
        {"a": 2**53},
        {"a": "\x00"},
        {"a": "\ud800"},
        {"a": "x" * 501},
        {f"k{number}": 1 for number in range(65)},
    ],
)
def test_metadata_that_cannot_be_stored_exactly_is_refused(metadata: dict[str, Any]) -> None:
    for make in (lambda: VectorCard("a", metadata=metadata), lambda: Amendment(metadata=metadata)):
        with pytest.raises(InvalidCard):
            make()


@pytest.mark.parametrize("parents", [("unknown",), (PARENT, PARENT), (PARENT.lower(),), ("8" + PARENT[1:],)])
def test_parents_must_be_unique_vector_ids(parents: tuple[str, ...]) -> None:
    with pytest.raises(InvalidCard):
        VectorCard("a", derived_from=parents)


@pytest.mark.parametrize("description", ["x" * 2_001, "a\x00b", "\ud800"])
def test_descriptions_that_databases_cannot_store_are_refused(description: str) -> None:
    for make in (lambda: VectorCard("a", description), lambda: Amendment(description=description)):
        with pytest.raises(InvalidCard):
            make()


def test_labels_keep_their_types_in_a_card_file() -> None:
    card = VectorCard("a", tags=("x", "ü"), metadata={"n": 1, "f": 1.0, "b": True, "t": "1"}, derived_from=(PARENT,))
    again = parse_card(dump_card(card))
    assert again == card
    assert [type(value) for value in again.metadata.values()] == [int, float, bool, str]


def test_a_card_without_labels_has_no_label_fields() -> None:
    fields = json.loads(dump_card(VectorCard("a")))
    assert set(fields) == {"name", "description", "embedder", "keys", "thresholds", "results"}


@pytest.mark.parametrize(
    "fields",
    [
        '"tags": "x"',
        '"tags": [1]',
        '"metadata": []',
        '"metadata": {"a": {}}',
        '"derived_from": "x"',
        '"derived_from": [5]',
    ],
)
def test_labels_of_the_wrong_type_are_refused_with_a_cure(fields: str) -> None:
    with pytest.raises(InvalidCard) as caught:
        parse_card('{"name": "a", ' + fields + "}")
    assert caught.value.cure
