"""Errors of invalid bodies: their pointers resolve in what was sent, and their messages name no classes."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from starlette.testclient import TestClient

from tests.support.library import memory_library
from vlibrary.api.app import create_app
from vlibrary.api.http.invalid_fields import MAX_FIELDS, InvalidField, invalid_fields
from vlibrary.api.openai.chat import ChatIn
from vlibrary.schemas.generate import GenerateIn
from vlibrary.schemas.registry import AliasIn, AmendIn
from vlibrary.schemas.vectors import RetrieveIn

SCHEMAS: list[type[BaseModel]] = [GenerateIn, RetrieveIn, ChatIn, AmendIn, AliasIn]
FULL: dict[type[BaseModel], dict[str, Any]] = {
    GenerateIn: {
        "prompt": "a",
        "steering": [{"id": "x", "strength": 1}],
        "demonstrations": [{"prompt": "a", "answer": "b"}],
        "decoding": {"seed": 1, "stop": ["."]},
    },
    RetrieveIn: {"text": "a", "filter": {"tags": ["a"], "metadata": ["a=1"]}, "images": []},
}
NAMES = st.sampled_from(["type", "text", "image_url", "url", "role", "user", "content", "a/b", "m~n", "", "0", "id"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def examples_of(schema: type[BaseModel]) -> list[dict[str, Any]]:
    extra = schema.model_config["json_schema_extra"]
    assert isinstance(extra, dict)
    return [*extra["examples"], *([FULL[schema]] if schema in FULL else [])]  # type: ignore[misc]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield (*path, step)
        yield from places(inner, (*path, step))


@st.composite
def damaged(draw: Any) -> tuple[type[BaseModel], Any]:
    """A schema, and an example of it with some values replaced, removed or added."""
    schema = draw(st.sampled_from(SCHEMAS))
    body = copy.deepcopy(draw(st.sampled_from(examples_of(schema))))
    for _ in range(draw(st.integers(1, 3))):
        parent: Any = body
        found = list(places(body))
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        for step in path:
            parent = parent[step]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            parent[last] = draw(VALUES)
        elif action == "remove":
            del parent[last]
        elif isinstance(last, str):
            parent[draw(NAMES)] = draw(VALUES)
    return schema, body


def errors_of(schema: type[BaseModel], body: Any) -> list[InvalidField]:
    try:
        schema.model_validate(body)
    except ValidationError as error:
        return invalid_fields([{**one, "loc": ("body", *one["loc"])} for one in error.errors()], body)
    return []


def resolve(pointer: str, body: Any) -> Any:
    value: Any = {"body": body}
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


@given(damaged())
def test_every_pointer_resolves_or_is_that_of_a_missing_field(case: tuple[type[BaseModel], Any]) -> None:
    schema, body = case
    found = errors_of(schema, body)
    pointers = [one.pointer for one in found]
    assert len(set(pointers)) == len(pointers)
    for one in found:
        if one.detail == "Field required":
            parent, _, _ = one.pointer.rpartition("/")
            assert isinstance(resolve(parent, body), dict), one
        else:
            resolve(one.pointer, body)
        assert not re.search(r"[A-Z][a-z]+[A-Z]\w*|In\b|instance of|discriminator", one.detail), one


TEXT = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
CASES: list[tuple[type[BaseModel], Any, list[str]]] = [
    (ChatIn, {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, ["messages/0/content/0/text"]),
    (ChatIn, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, ["messages/0/content/0/text"]),
    (ChatIn, {"messages": [{"role": "user", "content": [{"text": "a"}]}]}, ["messages/0/content/0/type"]),
    (ChatIn, {"messages": [{"role": "user", "content": [TEXT, {"type": "x"}]}]}, ["messages/0/content/1/type"]),
    (ChatIn, {"messages": [{"role": "user", "content": [TEXT | {"foo": 1}]}]}, ["messages/0/content/0/foo"]),
    (ChatIn, {"messages": [{"role": "user", "content": [IMAGE | {"foo": 1}]}]}, ["messages/0/content/0/foo"]),
    (
        ChatIn,
        {"messages": [{"role": "user", "content": [IMAGE | {"image_url": {"url": "data:,", "foo": 1}}]}]},
        ["messages/0/content/0/image_url/foo"],
    ),
    (ChatIn, {"messages": [{"content": "a"}]}, ["messages/0/role"]),
    (ChatIn, {"messages": [{"role": "user"}]}, ["messages/0/content"]),
    (GenerateIn, {"prompt": "a", "steering": [{"id": "x", "strength": "1"}]}, ["steering/0/strength"]),
    (GenerateIn, {"prompt": "a", "steering": "of"}, ["steering"]),
    (GenerateIn, {"prompt": "a", "decoding": 5}, ["decoding"]),
    (GenerateIn, {"prompt": "a", "a/b~": 5}, ["a~1b~0"]),
    (GenerateIn, {}, ["prompt"]),
    (AmendIn, {"metadata": {"a": [1]}}, ["metadata/a"]),
]


@pytest.mark.parametrize(("schema", "body", "pointers"), CASES)
def test_pointers_lead_to_the_invalid_fields(schema: type[BaseModel], body: Any, pointers: list[str]) -> None:
    assert [one.pointer for one in errors_of(schema, body)] == [f"/body/{one}" for one in pointers]


@pytest.mark.parametrize("content", [None, 5, True, {"type": "text"}])
def test_the_error_of_a_content_names_every_type_that_it_may_have(content: Any) -> None:
    (found,) = errors_of(ChatIn, {"messages": [{"role": "user", "content": content}]})
    assert found.detail == "Input should be a string or a list of parts"


@pytest.mark.parametrize(
    ("field", "value", "neutral"),
    [
        ("use_beam_search", True, "false"),
        ("add_generation_prompt", False, "true"),
        ("function_call", {"name": "f"}, '"none"'),
    ],
)
def test_the_error_of_an_unsupported_value_names_the_neutral_one_in_json(field: str, value: Any, neutral: str) -> None:
    (found,) = errors_of(ChatIn, {"messages": [{"role": "user", "content": "a"}], field: value})
    assert found.detail == f"not supported; omit the field or send {neutral}"


def test_an_answer_lists_at_most_sixteen_invalid_fields() -> None:
    with TestClient(create_app(memory_library())) as api:
        body = api.post("/generate", json={f"f{number}": 1 for number in range(100)}).json()
    assert len(body["errors"]) == MAX_FIELDS
    assert body["detail"].count("/body/") == 5
    assert body["detail"].endswith("; and 96 more.")
