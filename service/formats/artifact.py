"""A steering vector as bytes: format 1, one safetensors file.

Tensors of each edited site S (attention, mlp, layer), all float32 or all float16:
    S.vectors [L, d]      S.scale [L]      S.gain [L] (optional)
Header metadata, one JSON object under "vlibrary": format, model, method, positions, norm, training.

safetensors itself accepts NaN, duplicate names, names like ../../x and any number of tensors; this codec takes only
the names, shapes and dtypes that the base model implies, finite values, and a small header.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vlibrary.domain.errors import InvalidArtifact
from vlibrary.domain.vector import Array, Edit, ModelSpec, NormRule, Positions, Site, SteeringVector
from vlibrary.formats import strict_json

FORMAT = 1
METADATA_KEY = "vlibrary"
MAX_HEADER_BYTES = 64 * 1024
MAX_LAYERS = 1_024
MAX_HIDDEN_SIZE = 131_072
_DTYPES = frozenset({"F32", "F16"})
_PARTS = ("vectors", "scale", "gain")
_CHECKPOINTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
Choice = TypeVar("Choice", Positions, NormRule)


def sha256_of(data: bytes) -> str:
    """Hex digest, the identity of an artifact's bytes."""
    return hashlib.sha256(data).hexdigest()


def encode(vector: SteeringVector) -> bytes:
    """The artifact's bytes; the same tensors with the same record give the same bytes.

    Raises InvalidArtifact for a vector that `decode` would refuse: without edits, not finite, of another shape.
    """
    tensors: dict[str, Array] = {}
    for site, edit in sorted(vector.edits.items()):
        tensors[f"{site}.vectors"] = np.ascontiguousarray(edit.vectors)
        tensors[f"{site}.scale"] = np.ascontiguousarray(edit.scale)
        if edit.gain is not None:
            tensors[f"{site}.gain"] = np.ascontiguousarray(edit.gain)
    record = {
        "format": FORMAT,
        "model": asdict(vector.model),
        "method": vector.method,
        "positions": str(vector.positions),
        "norm": str(vector.norm),
        "training": dict(vector.training),
    }
    data = save(tensors, metadata={METADATA_KEY: json.dumps(record, sort_keys=True)})
    decode(data)  # never write what could not be read
    return data


def decode(data: bytes) -> SteeringVector:
    """The vector in an artifact's bytes.

    Raises InvalidArtifact for anything that `encode` could not have written (see the module's text).
    """
    header = _header(data)
    record = _record(header)
    model = _model(record)
    _check_tensors(header, model)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise InvalidArtifact(f"The file is damaged: {error}.", "Upload the file again.") from error
    edits = {site: _edit(site, tensors) for site in Site if f"{site}.vectors" in tensors}
    return SteeringVector(
        model=model,
        edits=edits,
        method=_string(record, "method"),
        positions=_choice(record, "positions", Positions),
        norm=_choice(record, "norm", NormRule),
        training=_mapping(record, "training"),
    )


def _header(data: bytes) -> dict[str, Any]:
    """The JSON header, read by hand so that duplicate names and huge headers are seen before the library looks."""
    if len(data) < 8:
        raise InvalidArtifact("The file is empty or truncated.", "Upload the whole file.")
    (size,) = struct.unpack("<Q", data[:8])
    if size > MAX_HEADER_BYTES:
        # Only now: a header of 640 bytes begins like a pickle, too.
        if data.startswith(_CHECKPOINTS):
            raise InvalidArtifact(
                "The file is a pickle or zip archive (a PyTorch checkpoint?), which can run code when it is read.",
                "Save the vector as safetensors: `vlibrary train` writes such files.",
            )
        raise InvalidArtifact(
            f"The header claims {size} bytes, or the file is not safetensors.",
            f"A steering vector's header has at most {MAX_HEADER_BYTES} bytes.",
        )
    if len(data) < 8 + size:
        raise InvalidArtifact("The file is truncated inside its header.", "Upload the whole file.")
    try:
        header = strict_json.parse(data[8 : 8 + size])
    except ValueError as error:
        raise InvalidArtifact(f"The header is not valid JSON: {error}.", "Upload a safetensors file.") from error
    if not isinstance(header, dict):
        raise InvalidArtifact("The header is not a JSON object.", "Upload a safetensors file.")
    return header


def _record(header: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = header.get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise InvalidArtifact(
            f"The header has no {METADATA_KEY!r} record.",
            "Write the file with `vlibrary train` or vlibrary.formats.artifact.encode.",
        )
    try:
        record = strict_json.parse(text)
    except ValueError as error:
        raise InvalidArtifact(
            f"The header's record is not valid JSON: {error}.", "Write it with codec.encode."
        ) from error
    if not isinstance(record, dict):
        raise InvalidArtifact("The header's record is not an object.", "Write it with codec.encode.")
    if record.get("format") != FORMAT:
        raise InvalidArtifact(
            f"The file has format {record.get('format')!r}.",
            f"This release reads format {FORMAT}; upgrade it for newer files.",
        )
    return record


def _model(record: Mapping[str, Any]) -> ModelSpec:
    model = _mapping(record, "model")
    return ModelSpec(
        model_id=_string(model, "model_id"),
        fingerprint=_string(model, "fingerprint"),
        architecture=_string(model, "architecture"),
        layers=_size(model, "layers", MAX_LAYERS),
        hidden_size=_size(model, "hidden_size", MAX_HIDDEN_SIZE),
    )


def _check_tensors(header: Mapping[str, Any], model: ModelSpec) -> None:
    """Only the names that the format knows, each with the shape that the base model implies."""
    names = set(header) - {"__metadata__"}
    sites = {site for site in Site if f"{site}.vectors" in names}
    allowed = {f"{site}.{part}" for site in sites for part in _PARTS}
    required = {f"{site}.{part}" for site in sites for part in ("vectors", "scale")}
    if not sites or names - allowed:
        extra = sorted(names - allowed)[:3]
        raise InvalidArtifact(
            f"Unexpected tensors {extra}." if extra else "The file has no vectors.",
            "Allowed are attention, mlp and layer, each with .vectors, .scale and perhaps .gain.",
        )
    if required - names:
        raise InvalidArtifact(
            f"Tensors {sorted(required - names)} are missing.", "Each site needs .vectors and .scale."
        )
    dtypes = set()
    for name in sorted(names):
        entry = header[name] if isinstance(header[name], dict) else {}
        dtypes.add(str(entry.get("dtype")))
        expected = [model.layers, model.hidden_size] if name.endswith(".vectors") else [model.layers]
        if entry.get("shape") != expected:
            raise InvalidArtifact(
                f"{name} has shape {entry.get('shape')}.",
                f"For {model.layers} layers of width {model.hidden_size} it must be {expected}.",
            )
    if len(dtypes) != 1 or not dtypes <= _DTYPES:
        raise InvalidArtifact(
            f"The tensors have dtypes {sorted(dtypes)}.",
            f"Store all of them in one of {sorted(_DTYPES)}.",
        )


def _edit(site: Site, tensors: Mapping[str, Array]) -> Edit:
    parts = {part: tensors[f"{site}.{part}"] for part in _PARTS if f"{site}.{part}" in tensors}
    for part, tensor in parts.items():
        if not np.isfinite(tensor.astype(np.float32)).all():
            raise InvalidArtifact(
                f"{site}.{part} holds NaN or infinity.", "Train again; such a vector destroys every answer."
            )
    edit = Edit(parts["vectors"], parts["scale"], parts.get("gain"))
    with np.errstate(over="ignore"):
        if not np.isfinite(edit.delta).all():
            raise InvalidArtifact(f"{site}: scale times vectors is infinite.", "Scale the vector down.")
    return edit


def _mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name)
    if not isinstance(value, dict):
        raise InvalidArtifact(f"The record's {name!r} is not an object.", "Write it with codec.encode.")
    return value


def _string(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidArtifact(f"The record's {name!r} is not a text.", "Write it with codec.encode.")
    return value


def _size(record: Mapping[str, Any], name: str, most: int) -> int:
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InvalidArtifact(f"The record's {name!r} is {value!r}.", f"It must be a whole number from 1 to {most}.")
    return value


def _choice(record: Mapping[str, Any], name: str, kind: type[Choice]) -> Choice:
    try:
        return kind(_string(record, name))
    except ValueError as error:
        raise InvalidArtifact(
            f"The record's {name!r} is {record.get(name)!r}.", f"Use one of {[str(k) for k in kind]}."
        ) from error
