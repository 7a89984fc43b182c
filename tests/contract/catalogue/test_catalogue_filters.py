"""The Catalogue port's contract: which vectors a filter means."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.registrations import MODEL, register
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.filters import Between, Condition, Filter, OneOf, ValueKind
from vlibrary.domain.labels import MetadataValue
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.vector import ModelSpec

OTHER_MODEL = ModelSpec("tests/other", "c" * 64, "Llava", layers=4, hidden_size=8)

# Values that are easily taken for each other, texts whose order depends on the language, and the ends of the range.
VALUES: list[MetadataValue] = [
    *(True, False, 0, 1, -1, 0.0, 1.0, 1.5, 2**53 - 1, -(2**53) + 1, 5e-324, 1.7e308, 0.1 + 0.2),
    *(
        "",
        "0",
        "1",
        "true",
        "True",
        "a",
        "B",
        "b",
        "ä",
        "z",
        "é",
        "e\u0301",
        "𝄞",
        "\uffff",
        "a b",
        "%",
        "_",
        "'",
        "2026-01",
    ),
]


def names_found(catalogue: Catalogue, *conditions: Condition) -> list[str]:
    """Every vector has the name of its place in VALUES."""
    page = catalogue.vectors.page(Filter(conditions=conditions), limit=99)
    assert catalogue.vectors.ids(Filter(conditions=conditions)) == {record.id for record in page.records}
    return sorted(record.name for record in page.records)


@pytest.fixture
def valued(catalogue: Catalogue) -> Catalogue:
    """A catalogue with a vector for each of VALUES."""
    for number, value in enumerate(VALUES):
        register(catalogue, f"v{number:02}", metadata={"x": value, "other": "same"})
    return catalogue


class TestMetadata:
    def test_metadata_values_keep_their_types(self, valued: Catalogue) -> None:
        found = {record.name: record.metadata["x"] for record in valued.vectors.page(limit=99).records}
        for number, value in enumerate(VALUES):
            again = found[f"v{number:02}"]
            assert (type(again), again) == (type(value), value)

    def test_equality_distinguishes_types(self, valued: Catalogue) -> None:
        expected = {True: ["v00"], False: ["v01"]}
        assert names_found(valued, OneOf("x", (True,))) == expected[True]
        assert names_found(valued, OneOf("x", (False,))) == expected[False]
        assert names_found(valued, OneOf("x", (1,))) == names_found(valued, OneOf("x", (1.0,))) == ["v03", "v06"]
        assert names_found(valued, OneOf("x", ("1",))) == [f"v{VALUES.index('1'):02}"]
        assert names_found(valued, OneOf("x", ("true",))) == [f"v{VALUES.index('true'):02}"]

    def test_a_condition_accepts_values_of_several_types(self, valued: Catalogue) -> None:
        assert names_found(valued, OneOf("x", (True, "B", 1.5))) == ["v00", "v07", f"v{VALUES.index('B'):02}"]
        assert names_found(valued, OneOf("x", ())) == []

    def test_all_conditions_must_hold(self, valued: Catalogue) -> None:
        same = OneOf("other", ("same",))
        assert names_found(valued, same, Between("x", least=1, most=1.5)) == ["v03", "v06", "v07"]
        assert names_found(valued, OneOf("other", ("else",)), OneOf("x", (1,))) == []
        assert names_found(valued, OneOf("none", (1,))) == []

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(data=st.data())
    def test_conditions_select_what_the_domain_filter_allows(self, valued: Catalogue, data: st.DataObject) -> None:
        values = st.sampled_from(VALUES)
        kinds = st.sampled_from([ValueKind.TEXT, ValueKind.NUMBER])
        some = st.lists(values, max_size=3).map(lambda chosen: OneOf("x", tuple(chosen)))
        between = kinds.flatmap(lambda kind: st.tuples(*[st.none() | st.sampled_from(of_kind(kind))] * 2))
        ranges = between.filter(any_given).map(lambda ends: Between("x", *ends))
        condition = data.draw(some | ranges)
        expected = [f"v{number:02}" for number, value in enumerate(VALUES) if condition.allows(value)]
        assert names_found(valued, condition) == expected

    @pytest.mark.parametrize(
        ("least", "most"),
        [(None, None), (True, None), (None, False), (1, "a"), ("a", 1.5), (math.nan, 1), (None, 10**400)],
    )
    def test_invalid_ranges_are_refused(self, least: Any, most: Any) -> None:
        with pytest.raises(InvalidInput):
            Between("x", least, most)

    @pytest.mark.parametrize(("key", "value"), [("", 1), ("a b", 1), ("x", "\x00"), ("x", "\ud800"), ("x", math.inf)])
    def test_invalid_metadata_conditions_are_refused(self, key: str, value: Any) -> None:
        with pytest.raises(InvalidInput):
            OneOf(key, (value,))


def of_kind(kind: ValueKind) -> list[MetadataValue]:
    return [value for value in VALUES if ValueKind.of(value) == kind]


def any_given(ends: tuple[object, object]) -> bool:
    return ends != (None, None)


class TestFields:
    def test_all_tags_must_match(self, catalogue: Catalogue) -> None:
        both = register(catalogue, tags=("a", "b b"))
        one = register(catalogue, tags=("a",), metadata={"tag": "b b"})
        assert catalogue.vectors.ids(Filter(tags=("a",))) == {both.id, one.id}
        assert catalogue.vectors.ids(Filter(tags=("b b", "a"))) == {both.id}
        assert catalogue.vectors.ids(Filter(tags=("A",))) == frozenset()
        assert catalogue.vectors.ids(Filter(tags=("\x00",))) == frozenset()

    def test_children_are_found_by_their_parent(self, catalogue: Catalogue) -> None:
        parent, other = register(catalogue), register(catalogue)
        child = register(catalogue, "child", derived_from=(other.id, parent.id))
        assert catalogue.vectors.get(child.id).derived_from == (other.id, parent.id)
        assert catalogue.vectors.ids(Filter(parent=parent.id)) == {child.id}
        assert catalogue.vectors.ids(Filter(parent=child.id)) == frozenset()
        # A tag that looks like the id is no parent.
        register(catalogue, tags=(child.id,))
        assert catalogue.vectors.ids(Filter(parent=child.id)) == frozenset()

    def test_filters_by_name_version_model_and_method(self, catalogue: Catalogue) -> None:
        a1, a2 = register(catalogue, "a"), register(catalogue, "a", method="icv")
        b1 = register(catalogue, "b", model=OTHER_MODEL)
        assert catalogue.vectors.ids(Filter(name="a", version=2)) == {a2.id}
        assert catalogue.vectors.ids(Filter(version=1)) == {a1.id, b1.id}
        assert catalogue.vectors.ids(Filter(method="icv")) == {a2.id}
        assert catalogue.vectors.ids(Filter(model_id=MODEL.model_id, method="m2iv")) == {a1.id}

    def test_creation_filters_are_half_open_in_any_time_zone(self, catalogue: Catalogue) -> None:
        record = register(catalogue)
        at = record.created_at
        moment = timedelta(milliseconds=1)
        assert catalogue.vectors.ids(Filter(created_from=at)) == {record.id}
        assert catalogue.vectors.ids(Filter(created_before=at)) == frozenset()
        assert catalogue.vectors.ids(Filter(created_from=at - moment, created_before=at + moment)) == {record.id}
        assert catalogue.vectors.ids(Filter(created_from=at + moment)) == frozenset()
        assert catalogue.vectors.ids(Filter(created_from=datetime.max.replace(tzinfo=UTC))) == frozenset()

    def test_filtered_pages_have_no_gap_or_overlap(self, catalogue: Catalogue) -> None:
        wanted = [register(catalogue, tags=("x",)).id for _ in range(5) if register(catalogue)]
        which, seen, cursor = Filter(tags=("x",)), list[str](), None
        while True:
            page = catalogue.vectors.page(which, limit=2, cursor=cursor)
            seen += [record.id for record in page.records]
            if (cursor := page.next) is None:
                break
        assert seen == wanted[::-1]
