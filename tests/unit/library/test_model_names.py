"""What a model name stands for: a base model, a mode, or a vector; and the list of names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.library import memory_library, register
from tests.support.memory.worker import MODEL
from vlibrary.domain.card import VectorRecord
from vlibrary.domain.errors import InvalidInput, ModelNotFound
from vlibrary.domain.steering import Mode, SteeringReason
from vlibrary.domain.wire import Decoding, Prompt
from vlibrary.library.library import Library
from vlibrary.library.model_names import find_model, list_models
from vlibrary.library.steer import Auto, ByModelName, Listed, Off, Plan, Steering, VectorAtStrength, plan

QUESTION = "Which colour is the shape?"
BASE = MODEL.model_id


@pytest.fixture
def library() -> Library:
    return memory_library()


@pytest.fixture
def colour(library: Library) -> VectorRecord:
    """The first of two versions, which carries the alias; the second is the newest."""
    first = register(library, "colour", QUESTION)
    register(library, "colour", "Something else entirely", seed=1)
    library.catalogue.aliases.set("colour", "production", first.id, expected=0)
    return first


def planned(library: Library, model: str | None, steering: Steering | None = None) -> Plan:
    return plan(Prompt(QUESTION), steering or ByModelName(), Decoding(), library, model=model)


def applied(library: Library, model: str | None, steering: Steering | None = None) -> list[tuple[str, float]]:
    return [(one.record.id, one.strength) for one in planned(library, model, steering).applied]


def test_every_reference_to_a_vector_is_a_model_that_applies_it(library: Library, colour: VectorRecord) -> None:
    for name in ("colour@production", "colour:1", colour.id):
        assert applied(library, name) == [(colour.id, 1.0)]
    newest = find_model("colour", library).vector
    assert newest is not None
    assert newest.version == 2
    assert applied(library, "colour") == [(newest.id, 1.0)]


def test_the_strength_of_the_request_is_that_of_the_named_vector(library: Library, colour: VectorRecord) -> None:
    assert applied(library, "colour@production", ByModelName(Auto(-0.5))) == [(colour.id, -0.5)]


def test_a_base_model_takes_its_mode_from_its_name(library: Library, colour: VectorRecord) -> None:
    assert applied(library, f"{BASE}:auto") == [(colour.id, 1.0)]
    off = planned(library, f"{BASE}:off")
    assert off.applied == ()
    assert off.reason is not None
    assert off.reason.code == SteeringReason.OFF


@pytest.mark.parametrize("name", [None, BASE])
def test_the_default_mode_decides_what_a_bare_base_model_means(
    library: Library, colour: VectorRecord, name: str | None
) -> None:
    assert applied(library, name) == [(colour.id, 1.0)]
    without = replace(library, default_mode=Mode.OFF)
    assert applied(without, name) == []
    assert applied(without, name, Auto()) == applied(without, f"{BASE}:auto") == [(colour.id, 1.0)]


CONTRADICTIONS: dict[str, tuple[str, Steering]] = {
    "a vector, and steering off": ("colour@production", Off()),
    "a vector, and auto": ("colour@production", Auto()),
    "a vector, and another one": ("colour@production", Listed((VectorAtStrength("colour:2"),))),
    "a vector, and none": ("colour@production", Listed(())),
    "a vector, and two": ("colour@production", Listed((VectorAtStrength("colour:1"), VectorAtStrength("colour:2")))),
    "off, and auto": (f"{BASE}:off", Auto()),
    "off, and a vector": (f"{BASE}:off", Listed((VectorAtStrength("colour:1"),))),
    "auto, and off": (f"{BASE}:auto", Off()),
    "auto, and a vector": (f"{BASE}:auto", Listed((VectorAtStrength("colour:1"),))),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_model_name_that_contradicts_the_steering_is_refused(
    library: Library, colour: VectorRecord, case: str
) -> None:
    name, steering = CONTRADICTIONS[case]
    with pytest.raises(InvalidInput, match="contradict each other") as caught:
        planned(library, name, steering)
    assert name in caught.value.detail


def test_a_model_name_and_steering_that_agree_are_accepted(library: Library, colour: VectorRecord) -> None:
    same = Listed((VectorAtStrength(colour.id, 0.5),))
    assert applied(library, "colour@production", same) == [(colour.id, 0.5)]
    assert applied(library, f"{BASE}:off", Off()) == []
    assert applied(library, f"{BASE}:auto", Auto(2.0)) == applied(library, BASE, Auto(2.0)) == [(colour.id, 2.0)]


@pytest.mark.parametrize(
    "name",
    [
        "gpt-0",
        "colour@staging",
        "colour:9",
        "colour:off",
        f"{BASE}:on",
        f"{BASE}@production",
        "../../etc/passwd",
        "",
        ":",
    ],
)
def test_an_unknown_name_is_refused(library: Library, colour: VectorRecord, name: str) -> None:
    with pytest.raises(ModelNotFound, match="does not exist"):
        find_model(name, library)


@given(name=st.text(max_size=40))
def test_any_text_is_a_model_or_is_refused_as_one(name: str) -> None:
    with pytest.raises(ModelNotFound):
        find_model(name, memory_library())


def names(library: Library, *, after: str | None = None, limit: int = 100) -> tuple[list[str], bool]:
    found, more = list_models(library, after=after, limit=limit)
    return [one.name for one in found], more


def test_the_list_has_base_models_then_aliased_vectors(library: Library, colour: VectorRecord) -> None:
    register(library, "without-alias", QUESTION, seed=3)
    assert names(library) == ([BASE, f"{BASE}:auto", f"{BASE}:off", "colour@production"], False)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100, 1000])
def test_pages_of_any_size_make_up_the_list(library: Library, colour: VectorRecord, limit: int) -> None:
    for number in range(120):
        library.catalogue.aliases.set("colour", f"a{number}", colour.id, expected=0)
    everything, more = names(library, limit=1000)
    assert (len(everything), more) == (124, False)
    seen: list[str] = []
    more = True
    while more:
        page, more = names(library, after=seen[-1] if seen else None, limit=limit)
        assert len(page) <= limit
        seen += page
    assert seen == everything


def test_a_page_starts_after_an_alias_that_is_gone(library: Library, colour: VectorRecord) -> None:
    library.catalogue.aliases.set("colour", "zeta", colour.id, expected=0)
    library.catalogue.aliases.drop("colour", "production", expected=library.catalogue.aliases.list()[0].revision)
    assert names(library, after="colour@production") == (["colour@zeta"], False)


def test_a_cursor_that_is_no_model_of_the_list_is_refused(library: Library) -> None:
    with pytest.raises(InvalidInput, match="after"):
        list_models(library, after="colour", limit=5)


def test_every_listed_name_is_found(library: Library, colour: VectorRecord) -> None:
    for name in names(library)[0]:
        assert find_model(name, library).name == name
