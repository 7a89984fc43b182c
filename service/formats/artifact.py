"""Artifact format 1: a steering vector as one safetensors file.

Tensors of each edited site S (attention, mlp, layer), all float32 or all float16:
    S.vectors [L, d]      S.scale [L]      S.gain [L] (optional)
Header metadata, one JSON object under "vlibrary": format, model, method, positions, norm, training.

safetensors itself accepts NaN, duplicate names, names like ../../x and any number of tensors. This module accepts only
the names, shapes and dtypes that the base model implies, finite values, and a small header.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vlibrary.domain.errors import InvalidArtifact
from vlibrary.domain.vector import Array, Edit, ModelSpec, NormRule, Positions, Site, SteeringVector
from vlibrary.formats import strict_json
from vlibrary.formats.foreign import recognise

FORMAT = 1
METADATA_KEY = "vlibrary"
MAX_HEADER_BYTES = 64 * 1024
MAX_LAYERS = 1_024
MAX_HIDDEN_SIZE = 131_072
_DTYPES = frozenset({"F32", "F16"})
_PARTS = ("vectors", "scale", "gain")
_CURE = "Write the file with `vlibrary train` or vlibrary.formats.artifact.encode."
_STRICT = ConfigDict(strict=True, protected_namespaces=())
_Text = Annotated[str, Field(min_length=1)]


class _Model(BaseModel):
    """domain.vector.ModelSpec, with the limits of the format."""

    model_config = _STRICT

    model_id: _Text
    fingerprint: _Text
    architecture: _Text
    layers: Annotated[int, Field(ge=1, le=MAX_LAYERS)]
    hidden_size: Annotated[int, Field(ge=1, le=MAX_HIDDEN_SIZE)]


class _Record(BaseModel):
    """The JSON object in the header; unknown fields are ignored."""

    model_config = _STRICT

    model: _Model
    method: _Text
    positions: Annotated[Positions, Field(strict=False)]  # JSON has texts, not members of an enum
    norm: Annotated[NormRule, Field(strict=False)]
    training: dict[str, Any]


def sha256_of(data: bytes) -> str:
    """Return the hex digest that identifies an artifact."""
    return hashlib.sha256(data).hexdigest()


def encode(vector: SteeringVector) -> bytes:
    """Return the artifact's bytes; equal tensors and records give equal bytes.

    Raises InvalidArtifact for a vector that `decode` would refuse: without edits, not finite, or of another shape.
    """
    tensors: dict[str, Array] = {
        f"{site}.{part}": np.ascontiguousarray(array)
        for site, edit in sorted(vector.edits.items())
        for part in _PARTS
        if (array := getattr(edit, part)) is not None
    }
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
    """Return the vector in an artifact's bytes.

    Raises InvalidArtifact for bytes that `encode` could not have written; for a file of another program, it says which.
    """
    if (foreign := recognise(data)) is not None:
        raise InvalidArtifact(f"The file is {foreign.what}.", foreign.cure)
    header = _read_header(data)
    record = _read_record(header)
    model = ModelSpec(**dict(record.model))
    _check_tensors(header, model)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise InvalidArtifact(f"The file is corrupt: {error}.", "Upload the file again.") from error
    edits = {site: _edit(site, tensors) for site in Site if f"{site}.vectors" in tensors}
    return SteeringVector(model, edits, record.method, record.positions, record.norm, record.training)


def load_vector(path: str | PathLike[str]) -> SteeringVector:
    """Return the vector in a .safetensors file. Raises InvalidArtifact, or OSError if the file cannot be read."""
    return decode(Path(path).read_bytes())


def save_vector(vector: SteeringVector, path: str | PathLike[str]) -> None:
    """Write the vector to a .safetensors file. Raises InvalidArtifact for a vector that `encode` refuses."""
    Path(path).write_bytes(encode(vector))


def _read_header(data: bytes) -> dict[str, Any]:
    """Return the JSON header, parsed here because safetensors accepts duplicate names and huge headers."""
    if len(data) < 8:
        raise InvalidArtifact("The file is empty or truncated.", "Upload the whole file.")
    (size,) = struct.unpack("<Q", data[:8])
    if size > MAX_HEADER_BYTES:
        raise InvalidArtifact(
            f"The file is not safetensors, or its header has {size} bytes.",
            f"Upload a safetensors file with a header of at most {MAX_HEADER_BYTES} bytes.",
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


def _read_record(header: Mapping[str, Any]) -> _Record:
    metadata = header.get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise InvalidArtifact(f"The header has no {METADATA_KEY!r} record.", _CURE)
    try:
        value = strict_json.parse(text)
        if isinstance(value, dict) and value.get("format") != FORMAT:
            raise InvalidArtifact(
                f"The file has format {value.get('format')!r}.",
                f"This release reads format {FORMAT}; newer files need a newer release.",
            )
        return _Record.model_validate(value)
    except ValidationError as error:
        raise InvalidArtifact(f"The header's record is invalid: {strict_json.explain(error)}.", _CURE) from error
    except ValueError as error:
        raise InvalidArtifact(f"The header's record is not valid JSON: {error}.", _CURE) from error


def _check_tensors(header: Mapping[str, Any], model: ModelSpec) -> None:
    """Raise InvalidArtifact for an unknown tensor name, or a shape that the base model does not imply."""
    names = set(header) - {"__metadata__"}
    sites = [site for site in Site if f"{site}.vectors" in names]
    shapes = {f"{site}.{part}": [model.layers] for site in sites for part in _PARTS}
    shapes |= {f"{site}.vectors": [model.layers, model.hidden_size] for site in sites}
    extra = sorted(names - set(shapes))[:3]
    if not sites or extra:
        raise InvalidArtifact(
            f"Unexpected tensors {extra}." if extra else "The file has no vectors.",
            "Use the sites attention, mlp and layer, each with .vectors, .scale and optionally .gain.",
        )
    if missing := [f"{site}.scale" for site in sites if f"{site}.scale" not in names]:
        raise InvalidArtifact(f"Tensors {missing} are missing.", "Add .vectors and .scale for each site.")
    dtypes = set()
    for name in sorted(names):
        entry = header[name] if isinstance(header[name], dict) else {}
        dtypes.add(str(entry.get("dtype")))
        if entry.get("shape") != shapes[name]:
            raise InvalidArtifact(
                f"{name} has shape {entry.get('shape')}.",
                f"For {model.layers} layers of width {model.hidden_size} it must be {shapes[name]}.",
            )
    if len(dtypes) != 1 or not dtypes <= _DTYPES:
        raise InvalidArtifact(f"The tensors have dtypes {sorted(dtypes)}.", f"Use one of {sorted(_DTYPES)} for all.")


def _edit(site: Site, tensors: Mapping[str, Array]) -> Edit:
    parts = {part: tensors[f"{site}.{part}"] for part in _PARTS if f"{site}.{part}" in tensors}
    for part, tensor in parts.items():
        if not np.isfinite(tensor.astype(np.float32)).all():
            raise InvalidArtifact(f"{site}.{part} contains NaN or infinity.", "Train the vector again.")
    edit = Edit(parts["vectors"], parts["scale"], parts.get("gain"))
    with np.errstate(over="ignore"):
        if not np.isfinite(edit.shift).all():
            raise InvalidArtifact(f"{site}: scale times vectors is not finite.", "Scale the vector down.")
    return edit
