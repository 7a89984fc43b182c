"""Tags, metadata, parents and descriptions: what a card may say, and how it is written down."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from vlibrary.domain.card import VectorCard
from vlibrary.domain.errors import InvalidCard
from vlibrary.domain.labels import check_tags
from vlibrary.domain.registration import Amendment
from vlibrary.formats.card import dump_card, parse_card

PARENT = "01K9Z4T0XJ4V6W8M2Q5R7S9A1B"


def test_tags_are_sorted_and_each_is_there_once() -> None:
    assert VectorCard("a", tags=("b", "a", "b")).tags == ("a", "b")
    assert Amendment(tags=("b", "a", "b")).tags == ("a", "b")


@pytest.mark.parametrize("tag", ["", " a", "a ", "a\nb", "a\x00", "\ud800", "x" * 65])
def test_a_tag_that_cannot_be_read_is_refused(tag: str) -> None:
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
def test_metadata_that_no_store_gives_back_exactly_is_refused(metadata: dict[str, Any]) -> None:
    for make in (lambda: VectorCard("a", metadata=metadata), lambda: Amendment(metadata=metadata)):
        with pytest.raises(InvalidCard):
            make()


@pytest.mark.parametrize("parents", [("unknown",), (PARENT, PARENT), (PARENT.lower(),), ("8" + PARENT[1:],)])
def test_parents_are_ids_of_vectors_each_once(parents: tuple[str, ...]) -> None:
    with pytest.raises(InvalidCard):
        VectorCard("a", derived_from=parents)


@pytest.mark.parametrize("description", ["x" * 2_001, "a\x00b", "\ud800"])
def test_a_description_that_not_every_store_can_keep_is_refused(description: str) -> None:
    for make in (lambda: VectorCard("a", description), lambda: Amendment(description=description)):
        with pytest.raises(InvalidCard):
            make()


def test_labels_survive_the_cards_file_with_their_types() -> None:
    card = VectorCard("a", tags=("x", "ü"), metadata={"n": 1, "f": 1.0, "b": True, "t": "1"}, derived_from=(PARENT,))
    again = parse_card(dump_card(card))
    assert again == card
    assert [type(value) for value in again.metadata.values()] == [int, float, bool, str]


def test_a_card_without_labels_is_written_as_before_they_existed() -> None:
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
def test_labels_of_other_shapes_are_an_error_with_a_cure(fields: str) -> None:
    with pytest.raises(InvalidCard) as caught:
        parse_card('{"name": "a", ' + fields + "}")
    assert caught.value.cure
