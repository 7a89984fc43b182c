"""The artifact format: round trips, and refusal of everything that is not an artifact."""

from __future__ import annotations

import io
import json
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.support.samples import vector
from vlibrary.domain.errors import InvalidArtifact
from vlibrary.domain.vector import Array, Edit, ModelSpec, NormRule, Positions, Site, SteeringVector
from vlibrary.formats.artifact import MAX_HEADER_BYTES, METADATA_KEY, decode, encode, sha256_of

unhurried = settings(max_examples=60)

MODEL = ModelSpec("tiny", "f" * 64, "Tiny", layers=2, hidden_size=3)
ARTIFACT = encode(vector(MODEL))

Header = dict[str, Any]


def refused(data: bytes, why: str | None = None) -> None:
    """Assert that the file is refused with this reason and a cure."""
    with pytest.raises(InvalidArtifact, match=why) as refusal:
        decode(data)
    assert refusal.value.detail
    assert refusal.value.cure


# ---- round trips -----------------------------------------------------------------------------------------------------

NUMBERS = st.floats(-1e6, 1e6, width=32)


def array(*shape: int) -> st.SearchStrategy[Array]:
    return arrays.arrays(np.float32, shape, elements=NUMBERS)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(SCALARS | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8)


@st.composite
def vectors(draw: st.DrawFn) -> SteeringVector:
    layers, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    edit = st.builds(Edit, array(layers, width), array(layers), st.none() | array(layers))
    return SteeringVector(
        model=ModelSpec(draw(TEXTS), draw(TEXTS), draw(TEXTS), layers, width),
        edits=draw(st.dictionaries(st.sampled_from(Site), edit, min_size=1)),
        method=draw(TEXTS),
        positions=draw(st.sampled_from(Positions)),
        norm=draw(st.sampled_from(NormRule)),
        training=draw(st.dictionaries(TEXTS, JSON, max_size=4)),
    )


@unhurried
@given(vectors())
def test_decode_returns_what_encode_wrote(written: SteeringVector) -> None:
    data = encode(written)
    read = decode(data)
    assert read == written
    assert (read.model, read.method, dict(read.training)) == (written.model, written.method, dict(written.training))
    for site, edit in written.edits.items():
        assert np.array_equal(read.edits[site].vectors, edit.vectors)
        assert np.array_equal(read.edits[site].scale, edit.scale)
    assert encode(read) == data


def test_the_digest_is_the_sha256_of_the_bytes() -> None:
    assert sha256_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 19280])
def test_a_header_length_that_looks_like_a_pickle_or_zip_is_accepted(length: int) -> None:
    """640 = 0x0280 begins with the bytes of a protocol-2 pickle, 19280 = 0x4B50 with those of a zip."""
    start = struct.unpack("<Q", ARTIFACT[:8])[0]
    header = ARTIFACT[8 : 8 + start].ljust(length)
    padded = struct.pack("<Q", length) + header + ARTIFACT[8 + start :]
    assert decode(padded) == vector(MODEL)


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_half_precision_is_accepted(dtype: str) -> None:
    kind = {"F16": np.float16, "F32": np.float32}[dtype]
    tensors = {"mlp.vectors": np.full((2, 3), 0.5, kind), "mlp.scale": np.full(2, 4, kind)}
    data = file_of({name: (dtype, list(t.shape), t.tobytes()) for name, t in tensors.items()})
    assert (decode(data).edits[Site.MLP].shift == 2).all()


# ---- what encode refuses ---------------------------------------------------------------------------------------------


def test_encode_refuses_what_decode_would_refuse() -> None:
    edit = vector(MODEL).edits[Site.MLP]
    whole: dict[str, Any] = {"model": MODEL, "edits": {Site.MLP: edit}, "method": "m2iv"}
    broken: list[dict[str, Any]] = [
        {"edits": {}},
        {"edits": {Site.MLP: Edit(edit.vectors * np.float32(np.nan), edit.scale)}},
        {"edits": {Site.MLP: Edit(edit.vectors[:1], edit.scale)}},
        {"method": ""},
        {"training": {"note": "x" * MAX_HEADER_BYTES}},
        {"training": {"loss": float("nan")}},
        {"training": {"note": "\0"}},
        {"training": {"note": "\ud800"}},
    ]
    encode(SteeringVector(**whole))
    for changes in broken:
        with pytest.raises(InvalidArtifact):
            encode(SteeringVector(**(whole | changes)))


# ---- hand-made files -------------------------------------------------------------------------------------------------

# A tensor as (dtype, shape, bytes).
Tensors = dict[str, tuple[Any, Any, bytes]]


def split(data: bytes) -> tuple[Header, bytes]:
    """A file's header and body."""
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join(header: Header | bytes, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def record_of(data: bytes) -> Header:
    record: Header = json.loads(split(data)[0]["__metadata__"][METADATA_KEY])
    return record


def file_of(tensors: Tensors, record: Any = None) -> bytes:
    """A safetensors file of these tensors, with this record in its metadata."""
    text = json.dumps(record_of(ARTIFACT) if record is None else record)
    header: Header = {"__metadata__": {METADATA_KEY: text}}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    return join(header, b"".join(data for *_, data in tensors.values()))


def floats(*shape: int, value: float = 1.0) -> tuple[str, list[int], bytes]:
    return "F32", list(shape), np.full(shape, value, np.float32).tobytes()


GOOD: Tensors = {"mlp.scale": floats(2), "mlp.vectors": floats(2, 3)}
BAD_TENSORS: dict[str, tuple[Tensors, str]] = {
    "no tensors": ({}, "no vectors"),
    "NaN in the vectors": (GOOD | {"mlp.vectors": floats(2, 3, value=np.nan)}, "NaN or infinity"),
    "infinity in the scale": (GOOD | {"mlp.scale": floats(2, value=np.inf)}, "NaN or infinity"),
    "NaN in the gain": (GOOD | {"mlp.gain": floats(2, value=np.nan)}, "NaN or infinity"),
    "an infinite product": (
        {"mlp.scale": floats(2, value=1e30), "mlp.vectors": floats(2, 3, value=1e30)},
        "not finite",
    ),
    "an extra tensor": (GOOD | {"mlp.extra": floats(2)}, "Unexpected tensors"),
    "a path traversal": (GOOD | {"../../etc/passwd": floats(2)}, "Unexpected tensors"),
    "an unknown site": (GOOD | {"heads.vectors": floats(2, 3)}, "Unexpected tensors"),
    "a gain without its site": (GOOD | {"layer.gain": floats(2)}, "Unexpected tensors"),
    "an empty name": (GOOD | {"": floats(2)}, "Unexpected tensors"),
    "no scale": ({"mlp.vectors": floats(2, 3)}, "missing"),
    "another width": (GOOD | {"mlp.vectors": floats(2, 4)}, "must be \\[2, 3\\]"),
    "transposed": (GOOD | {"mlp.vectors": floats(3, 2)}, "must be \\[2, 3\\]"),
    "a scale per coordinate": (GOOD | {"mlp.scale": floats(2, 3)}, "must be \\[2\\]"),
    "an extra axis": (GOOD | {"mlp.vectors": floats(1, 2, 3)}, "must be \\[2, 3\\]"),
    "zero size": (GOOD | {"mlp.vectors": floats(0, 3)}, "must be \\[2, 3\\]"),
    "no shape": (GOOD | {"mlp.vectors": ("F32", None, bytes(24))}, "has shape None"),
    "bfloat16": ({"mlp.scale": ("BF16", [2], bytes(4)), "mlp.vectors": ("BF16", [2, 3], bytes(12))}, "BF16"),
    "whole numbers": ({"mlp.scale": ("I64", [2], bytes(16)), "mlp.vectors": ("I64", [2, 3], bytes(48))}, "I64"),
    "two dtypes": (GOOD | {"mlp.scale": ("F16", [2], bytes(4))}, "F16.*F32"),
    "a dtype that is a list": (GOOD | {"mlp.scale": ([], [2], bytes(8))}, "dtypes"),
    "a wrong dtype": (GOOD | {"mlp.scale": ("F32", [2], bytes(4))}, "corrupt"),
    "a fractional shape": (GOOD | {"mlp.scale": ("F32", [2.0], bytes(8))}, "corrupt"),
    "50,000 tensors": (GOOD | {f"t{number}": floats() for number in range(50_000)}, "header has"),
    "500 tensors": (GOOD | {f"t{number}": floats() for number in range(500)}, "Unexpected tensors"),
}


def test_a_hand_made_file_is_accepted() -> None:
    assert (decode(file_of(GOOD)).edits[Site.MLP].shift == 1).all()


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_invalid_tensors_are_refused(case: str) -> None:
    tensors, why = BAD_TENSORS[case]
    refused(file_of(tensors), why)


def with_model(**changes: Any) -> Header:
    record = record_of(ARTIFACT)
    return record | {"model": record["model"] | changes}


BAD_RECORDS: dict[str, tuple[Any, str]] = {
    "not an object": ([], "should be an object"),
    "format 2": (record_of(ARTIFACT) | {"format": 2}, "format 2"),
    "no format": ({k: v for k, v in record_of(ARTIFACT).items() if k != "format"}, "format None"),
    "no model": (record_of(ARTIFACT) | {"model": None}, "model: "),
    "no fingerprint": (with_model(fingerprint=""), "model.fingerprint: "),
    "no layers": (with_model(layers=0), "model.layers: "),
    "boolean layers": (with_model(layers=True), "model.layers: "),
    "a fraction of a layer": (with_model(layers=2.0), "model.layers: "),
    "too many layers": (with_model(layers=10**9), "model.layers: "),
    "too wide": (with_model(hidden_size=10**12), "model.hidden_size: "),
    "no method": (record_of(ARTIFACT) | {"method": 7}, "method: "),
    "odd positions": (record_of(ARTIFACT) | {"positions": "first"}, "positions: "),
    "odd norm": (record_of(ARTIFACT) | {"norm": "l2"}, "norm: "),
    "training is a list": (record_of(ARTIFACT) | {"training": [1]}, "training: "),
    "NaN": (record_of(ARTIFACT) | {"training": {"loss": float("nan")}}, "NaN"),
    "NUL": (with_model(model_id="a\0b"), "NUL"),
    "half a surrogate pair": (record_of(ARTIFACT) | {"method": "\udc80"}, "surrogate"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_invalid_records_are_refused(case: str) -> None:
    record, why = BAD_RECORDS[case]
    refused(file_of(GOOD, record), why)


def with_record_text(text: Any) -> bytes:
    header, body = split(ARTIFACT)
    return join(header | {"__metadata__": {METADATA_KEY: text}}, body)


def checkpoint(protocol: int) -> bytes:
    return pickle.dumps({"attention.vectors": np.zeros((2, 3))}, protocol=protocol)


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as torch_checkpoint:
        torch_checkpoint.writestr("archive/data.pkl", checkpoint(2))
    return buffer.getvalue()


TEXT, BODY = ARTIFACT[8 : len(ARTIFACT) - 64], ARTIFACT[-64:]
BAD_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "empty or truncated"),
    "seven bytes": (lambda: ARTIFACT[:7], "empty or truncated"),
    "trailing bytes": (lambda: ARTIFACT + b"\0", "corrupt"),
    "two files": (lambda: ARTIFACT + ARTIFACT, "corrupt"),
    "pickle protocol 2": (lambda: checkpoint(2), "pickle"),
    "pickle protocol 4": (lambda: checkpoint(4), "pickle"),
    "pickle protocol 5": (lambda: checkpoint(5), "pickle"),
    "zip": (archive, "zip"),
    "text": (lambda: b"not an artifact, just words", "a text file"),
    "huge header": (lambda: join(TEXT.ljust(MAX_HEADER_BYTES + 8), BODY), "header has"),
    "a header of 2**64 - 1 bytes": (lambda: b"\xff" * 8 + TEXT, "header has"),
    "a name twice": (lambda: join(TEXT.replace(b"attention.scale", b"mlp.scale"), BODY), "occurs twice"),
    "the record twice": (lambda: join(b'{"__metadata__":{},' + TEXT[1:], BODY), "occurs twice"),
    "deep JSON": (lambda: join(b"[" * 60_000, BODY), "JSON"),
    "deep JSON in the record": (lambda: with_record_text('{"a":' * 9_000), "JSON"),
    "a number of 5,000 digits": (lambda: with_record_text('{"a":' + "9" * 5_000 + "}"), "JSON"),
    "infinity by exponent": (
        lambda: with_record_text(json.dumps(record_of(ARTIFACT)).replace("16}", "1e999}")),
        "JSON",
    ),
    "a key twice in the record": (lambda: with_record_text('{"format": 2, "format": 1}'), "occurs twice"),
    "a record of bytes": (lambda: with_record_text([1]), "no 'vlibrary' record"),
    "a list for a header": (lambda: join(b"[]", BODY), "not a JSON object"),
    "no metadata": (lambda: join({k: v for k, v in split(ARTIFACT)[0].items() if k[0] != "_"}, BODY), "no 'vlibrary'"),
    "broken UTF-8": (lambda: join(TEXT.replace(b"mlp", b"ml\xff"), BODY), "JSON"),
    "UTF-16": (lambda: join(TEXT.decode().encode("utf-16"), BODY), "encoded in UTF-16"),
    "overlapping tensors": (lambda: join(TEXT.replace(b"[8,32]", b"[0,24]"), BODY), "corrupt"),
    "a tensor beyond the end": (lambda: join(TEXT.replace(b"[40,64]", b"[400,424]"), BODY), "corrupt"),
    "a tensor that is a number": (lambda: join(split(ARTIFACT)[0] | {"mlp.scale": 3}, BODY), "has shape None"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_corrupt_and_malicious_files_are_refused(case: str) -> None:
    build, why = BAD_FILES[case]
    refused(build(), why)


def test_a_file_truncated_anywhere_is_refused() -> None:
    for length in range(len(ARTIFACT)):
        refused(ARTIFACT[:length])


def test_claimed_sizes_cost_neither_memory_nor_time() -> None:
    """The largest model allowed, in a file of less than a kilobyte."""
    layers, width = 1_024, 131_072
    size = layers * width * 4
    header, _ = split(file_of(GOOD, with_model(layers=layers, hidden_size=width)))
    header["mlp.scale"] |= {"shape": [layers], "data_offsets": [0, 4 * layers]}
    header["mlp.vectors"] |= {"shape": [layers, width], "data_offsets": [4 * layers, 4 * layers + size]}
    liar = join(header, b"")
    tracemalloc.start()
    began = time.process_time()
    refused(liar, "corrupt")
    spent, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(liar) < 1_000
    assert peak < 1_000_000
    assert spent < 1


# ---- fuzzing ---------------------------------------------------------------------------------------------------------


def survives(data: bytes) -> None:
    """Assert that the bytes are decoded or raise InvalidArtifact."""
    try:
        found = decode(data)
    except InvalidArtifact:
        return
    assert decode(encode(found)) == found


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(ARTIFACT) - 1), st.integers(1, 255)), min_size=1, max_size=8))
def test_flipped_bytes_raise_only_invalid_artifact(flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(ARTIFACT)
    for place, change in flips:
        damaged[place] ^= change
    survives(bytes(damaged))


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_random_bytes_raise_only_invalid_artifact(data: bytes) -> None:
    survives(data)
    survives(join(data, BODY))


PATHS = st.sampled_from(["dtype", "shape", "data_offsets"])
ODD = JSON | st.sampled_from([-1, 2**64, 10**30, 1e308, "F32", [2], [2, 3], [-2, -3], [[2]], {}, float("nan")])


@settings(max_examples=150)
@given(st.sampled_from(["mlp.scale", "mlp.vectors", "attention.scale"]), PATHS, ODD)
def test_odd_header_values_raise_only_invalid_artifact(name: str, field: str, value: Any) -> None:
    header, body = split(ARTIFACT)
    survives(join(header | {name: header[name] | {field: value}}, body))
    survives(join(header | {name: value}, body))
    survives(join(header | {"__metadata__": value}, body))


@settings(max_examples=150)
@given(st.sampled_from([*record_of(ARTIFACT), "other"]), st.sampled_from([*record_of(ARTIFACT)["model"], "more"]), ODD)
def test_odd_record_values_raise_only_invalid_artifact(field: str, fact: str, value: Any) -> None:
    survives(with_record_text(json.dumps(record_of(ARTIFACT) | {field: value})))
    survives(with_record_text(json.dumps(with_model(**{fact: value}))))
