"""Answers constrained to a JSON schema: valid, the same alone and in a batch, on both engines."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema_rs import validator_for

from tests.model.engine.test_decoding_options import answered, assert_close
from tests.model.engine.test_inflight import RecordedRequest, answer_statically, run
from tests.model.samples import PROMPTS, vector
from vlibrary.api.openai.tools import FunctionIn, to_call_schema
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.wire import Decoding
from vlibrary.engine import grammar
from vlibrary.engine.grammar import Grammars
from vlibrary.engine.inflight import InFlightEngine
from vlibrary.engine.token_bytes import TokenBytes
from vlibrary.models.lvlm import Lvlm

COLOURS = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "größer", 7]},
        "sizes": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["colour", "sizes"],
    "additionalProperties": False,
}


def constrained(schema: Any, tokens: int = 200, **more: Any) -> Decoding:
    return Decoding(max_new_tokens=tokens, json_schema=json.dumps(schema), **more)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_a_complete_answer_is_a_document_of_the_schema(llava: Lvlm, temperature: float) -> None:
    requests = [
        RecordedRequest(
            llava, PROMPTS[seed % 4], None, constrained(COLOURS, temperature=temperature, seed=seed, top_p=0.99)
        )
        for seed in range(6)
    ]
    for one in answered(llava, *requests):
        assert one.finish_reason == "stop"
        assert validator_for(COLOURS).is_valid(json.loads(one.text)), one.text


@pytest.mark.parametrize("small", [0, 10**6], ids=["masks in a thread", "masks at once"])
def test_constrained_answers_are_the_same_alone_in_a_batch_and_by_generate(
    llava: Lvlm, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar, "_SMALL_VOCABULARY", small)

    def requests() -> list[RecordedRequest]:
        options = (
            constrained(COLOURS, 40, logprobs=2),
            Decoding(max_new_tokens=20),
            constrained({"type": "object"}, 12, temperature=1.0, seed=3),
            constrained({"type": "integer", "minimum": 3, "maximum": 9}),
        )
        return [
            RecordedRequest(llava, PROMPTS[place], vector(llava.spec, 1 + place % 2), one)
            for place, one in enumerate(options)
        ]

    together = answered(llava, *requests())
    for got, one in zip(together, requests(), strict=True):
        (alone,) = answered(llava, one)
        by_generate = answer_statically(llava, one.request.prompt.prompt, one.request.vector, one.request.decoding)
        assert got.text == alone.text == by_generate.text
        assert got.completion_tokens == alone.completion_tokens == by_generate.completion_tokens
        if got.logprobs is not None:
            assert_close(got.logprobs, alone.logprobs)
            assert_close(got.logprobs, by_generate.logprobs)
    assert 3 <= int(together[3].text) <= 9
    assert together[3].finish_reason == "stop"


def test_an_answer_that_reaches_its_length_is_the_beginning_of_a_document(llava: Lvlm) -> None:
    (one,) = answered(llava, RecordedRequest(llava, PROMPTS[1], None, constrained(COLOURS, 3)))
    assert one.finish_reason == "length"
    assert one.text.startswith("{")


@pytest.mark.parametrize("options", [{}, {"x-guidance": {"whitespace_pattern": r"[ \n]*"}}], ids=["plain", "options"])
@pytest.mark.parametrize("start", ["{", '{"a"', '{"a":', '{"a":1', "["])
def test_white_space_between_tokens_is_bounded(llava: Lvlm, options: Any, start: str) -> None:
    matcher = Grammars(llava).compile(json.dumps({"type": ["object", "array"]} | options)).deep_copy()
    names = TokenBytes(llava.tokenizer)
    single = {names[token]: token for token in range(llava.vocabulary)}
    assert matcher.consume_tokens([single[bytes([byte])] for byte in start.encode()])
    written = 0
    while written < 100 and (allowed := [one for one in (b"\n", b" ") if matcher.validate_tokens([single[one]])]):
        matcher.consume_token(single[allowed[0]])
        written += 1
    assert written == 17


INVALID: dict[str, tuple[Any, str]] = {
    "an unknown type": ({"properties": {"a": {"type": "colour"}}}, "/properties/a: Invalid type: colour"),
    "inside a list": ({"anyOf": [{"type": "null"}, {"items": {"type": 3}}]}, "/anyOf/1/items"),
    "a name with a slash": ({"properties": {"a/b~c": {"pattern": "("}}}, "/properties/a~1b~0c: regex parse error"),
    "not a schema": ({"$defs": {"x": 5}, "$ref": "#/$defs/x"}, "/\\$defs/x: a schema must be"),
    "a reference to nothing": ({"properties": {"a": {"$ref": "#/$defs/no"}}}, "/properties/a: .*does not exist"),
    "another document": ({"items": {"$ref": "http://127.0.0.1:9/x.json"}}, "/items: .*does not fetch"),
    "a keyword that is not supported": ({"properties": {"a": {"not": {"type": "null"}}}}, "/properties/a: Unimpl"),
    "at the root": ({"type": "no"}, "at its root: Invalid type"),
    "beside a valid reference to a property": (
        {"properties": {"a": {"$ref": "#/properties/b"}, "b": {"type": "integer"}, "c": {"type": "colour"}}},
        "/properties/c: Invalid type: colour",
    ),
    "behind a reference to a property": (
        {"properties": {"a": {"$ref": "#/properties/b%20c"}, "b c": {"items": {"type": "colour"}}}},
        "/properties/b c/items: Invalid type: colour",
    ),
    "behind a chain of definitions": (
        {
            "properties": {"a": {"$ref": "#/definitions/one"}},
            "definitions": {
                "one": {"items": {"$ref": "#/definitions/two"}},
                "two": {"pattern": "("},
                "three": {"type": 1},
            },
        },
        "/definitions/two: regex parse error",
    ),
    "after a reference to the whole": (
        {
            "$id": "x:y",
            "properties": {"a": {"$ref": "#"}, "b": {"anyOf": [{"$ref": "#/properties/b"}, {"type": "no"}]}},
        },
        "/properties/b/anyOf/1: Invalid type: no",
    ),
    "a chain that ends in nothing": (
        {"properties": {"a": {"$ref": "#/properties/b"}, "b": {"$ref": "#/properties/c"}}},
        "/properties/b: Pointer '/properties/c' does not exist",
    ),
}


def test_a_call_of_a_tool_is_one_of_the_functions(llava: Lvlm) -> None:
    functions = [
        FunctionIn(name="paint", parameters={"$defs": {"C": COLOURS}, "$ref": "#/$defs/C"}),
        FunctionIn(name="go"),
    ]
    schema = json.loads(to_call_schema(functions))
    requests = [
        RecordedRequest(llava, PROMPTS[seed % 4], None, constrained(schema, temperature=1.0, seed=seed))
        for seed in range(6)
    ]
    calls = [json.loads(one.text) for one in answered(llava, *requests)]
    assert {call["name"] for call in calls} == {"paint", "go"}
    for call in calls:
        assert validator_for(schema).is_valid(call), call


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_schema_is_refused_with_its_place(llava: Lvlm, case: str) -> None:
    schema, words = INVALID[case]
    with pytest.raises(InvalidInput, match=words) as raised:
        InFlightEngine(llava).prepare(constrained(schema))
    assert raised.value.field == "json_schema"


STEPS = st.lists(st.sampled_from(["properties", "items", "anyOf", "$defs", "definitions"]), max_size=5)


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_the_place_of_an_error_is_found_behind_references_too(llava: Lvlm, steps: list[str]) -> None:
    schema: Any = {"type": "no"}
    path, place, shared = "", None, dict[str, Any]()
    for number, step in enumerate(steps):
        if step in ("$defs", "definitions"):
            shared.setdefault(step, {})[f"d{number}"] = schema
            schema = {"$ref": f"#/{step}/d{number}"}
            place = place or f"/{step}/d{number}{path}"
        elif step == "properties":
            schema, path = {"properties": {"whole": {"$ref": "#"}, "a/b": schema}}, "/properties/a~1b" + path
        else:
            schema = {step: schema if step == "items" else [{"type": "null"}, schema]}
            path = ("/items" if step == "items" else "/anyOf/1") + path
    with pytest.raises(InvalidInput) as raised:
        Grammars(llava).compile(json.dumps(schema | shared))
    assert f" at {place or path or 'its root'}: Invalid type: no." in raised.value.detail


def test_a_schema_is_compiled_once_and_delays_no_other(llava: Lvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_schema, started, go, compiled = grammar._compile, Event(), Event(), list[Any]()

    def compile_slowly(schema: Any, tokenizer: Any) -> Any:
        compiled.append(schema)
        if schema == COLOURS:
            started.set()
            assert go.wait(10)
        return compile_schema(schema, tokenizer)

    monkeypatch.setattr(grammar, "_compile", compile_slowly)
    grammars = Grammars(llava)
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(grammars.compile, json.dumps(COLOURS)) for _ in range(2)]
        assert started.wait(10)
        assert grammars.start('{"type": "null"}') is not None
        go.set()
        assert slow[0].result() is slow[1].result()
    assert compiled == [COLOURS, {"type": "null"}]


def test_an_invalid_schema_ends_only_its_request(llava: Lvlm) -> None:
    wrong = RecordedRequest(llava, PROMPTS[1], None, constrained({"type": "no"}))
    fine = RecordedRequest(llava, PROMPTS[2], None, Decoding(max_new_tokens=3))
    run(InFlightEngine(llava), [wrong, fine], steps_between=0)
    assert [type(event) for event in wrong.events] == [InvalidInput]
    assert fine.generation.completion_tokens == 3


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None)
@given(VALUES)
def test_a_schema_can_require_any_json_value(llava: Lvlm, value: Any) -> None:
    decoding = constrained({"const": value}, 400)
    (one,) = answered(llava, RecordedRequest(llava, PROMPTS[1], None, decoding), steps_between=0)
    assert one.finish_reason == "stop"
    assert json.loads(one.text) == value


def test_a_tokenizer_without_braces_is_refused(llava: Lvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    brace = llava.tokenizer.convert_tokens_to_ids("{")
    names = llava.tokenizer.convert_ids_to_tokens
    monkeypatch.setattr(llava.tokenizer, "convert_ids_to_tokens", lambda one: "x" if one == brace else names(one))
    with pytest.raises(InvalidInput, match=r"cannot write JSON: it has no token for '\{'"):
        Grammars(llava).compile('{"type": "object"}')
