"""Round trips of the messages between the API and its workers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlibrary.client import ServiceError
from vlibrary.domain import errors
from vlibrary.domain.errors import InvalidQuery, Unavailable, VLibraryError
from vlibrary.domain.query import Query, TaskEmbedding
from vlibrary.domain.wire import GenerateCall, Generation, TextPiece, WorkerStatus
from vlibrary.formats.messages import CALL, QUERY, STATUS, dump_embedding, dump_event, parse_embedding, parse_event

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))
NUMBERS = st.floats(allow_nan=False)
st.register_type_strategy(float, NUMBERS)
CALLS = st.from_type(GenerateCall)
GENERATIONS = st.builds(Generation, timings=st.dictionaries(st.text(), JSON | st.floats(-1e9, 1e9), max_size=3))
EVENTS = st.from_type(TextPiece) | GENERATIONS
FLOATS = st.lists(st.floats(-1, 1, width=32), max_size=9)
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VLibraryError)]


@given(CALLS)
def test_a_call_survives_a_round_trip(call: GenerateCall) -> None:
    assert CALL.from_json(CALL.to_json(call)) == call


@given(st.from_type(WorkerStatus))
def test_a_heartbeat_survives_a_round_trip(status: WorkerStatus) -> None:
    assert STATUS.from_json(STATUS.to_json(status)) == status


@given(st.text(), st.lists(st.binary(), min_size=1, max_size=3))
def test_a_query_survives_a_round_trip(text: str, images: list[bytes]) -> None:
    query = Query(text, tuple(images))
    assert QUERY.from_json(QUERY.to_json(query)) == query


def test_an_empty_query_raises_the_domain_error() -> None:
    with pytest.raises(InvalidQuery):
        QUERY.from_json(b'{"text": " ", "images": []}')


@given(st.none() | FLOATS, st.none() | FLOATS)
def test_an_embedding_survives_a_round_trip_bit_for_bit(image: list[float] | None, text: list[float] | None) -> None:
    parts = [None if part is None else np.array(part, np.float32) for part in (image, text)]
    message = dump_embedding(TaskEmbedding(parts[0], parts[1], text_tokens=91, text_limit=77))
    back = parse_embedding(message)
    assert (back.text_tokens, back.text_limit, back.text_cut) == (91, 77, True)
    for part, found in zip(parts, (back.image, back.text), strict=True):
        assert (part is None) == (found is None)
        if part is not None and found is not None:
            assert found.dtype == np.float32
            assert found.tobytes() == part.tobytes()


@given(EVENTS)
def test_an_event_is_one_line_and_survives_a_round_trip(event: TextPiece | Generation) -> None:
    line = dump_event(event)
    assert b"\n" not in line
    assert parse_event(line) == event


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_every_error_keeps_its_class(kind: type[VLibraryError]) -> None:
    back = parse_event(dump_event(kind("What is wrong.", "What to do.", field="logit_bias")))
    assert type(back) is kind
    assert (back.detail, back.cure, back.field) == ("What is wrong.", "What to do.", "logit_bias")


def test_an_unknown_error_code_becomes_unavailable() -> None:
    back = parse_event(dump_event(ServiceError(418, "Teapot.", "Use the kettle.")))
    assert type(back) is Unavailable
    assert (back.detail, back.cure) == ("Teapot.", "Use the kettle.")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'{"text": "a"}',
        b'{"text": "a", "tokens": 1, "colour": "red"}',
        b"\xff",
    ],
)
def test_invalid_event_lines_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_event(line)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="beams"):
        CALL.from_json(b'{"prompt": {"text": "a"}, "model_id": "m", "decoding": {"beams": 4}}')
