"""Reading of plain arrays from .npy, .npz and safetensors files, without loading a pickle."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlibrary.domain.vector import Array
from vlibrary.formats import strict_json

_NUMPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class InvalidTensors(ValueError):
    """The bytes are not a file of plain numbers."""


def read_tensors(data: bytes) -> dict[str, Array | None]:
    """Return the arrays as float32, by name; the array of an .npy file has the name "".

    An array of anything but floating-point numbers, such as a layer's number next to its direction, is None.
    Raises InvalidTensors.
    """
    try:
        if data.startswith((_NUMPY, _ZIP)):
            found = np.load(io.BytesIO(data), allow_pickle=False)
            arrays: Mapping[str, np.ndarray[Any, Any]] = {"": found} if isinstance(found, np.ndarray) else dict(found)
            return {name: _to_float32(array) for name, array in arrays.items()}
        return _read_safetensors(data)
    except Exception as error:  # numpy's parsers raise arbitrary exceptions for malformed bytes
        raise InvalidTensors(f"it is damaged, or contains Python objects: {error}") from error


def _to_float32(array: np.ndarray[Any, Any]) -> Array | None:
    with np.errstate(over="ignore"):
        return array.astype(np.float32) if array.dtype.kind == "f" else None


def _read_safetensors(data: bytes) -> dict[str, Array | None]:
    """Read safetensors, with bfloat16, which numpy does not have."""
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or len(data) < start:
        raise ValueError("it is no safetensors, .npy or .npz file, or it is truncated")
    arrays: dict[str, Array | None] = {}
    for name, entry in strict_json.parse(data[8:start]).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            arrays[name] = None
            continue
        begin, end = entry["data_offsets"]
        flat = np.frombuffer(data[start + begin : start + end], _DTYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = _to_float32(flat.reshape(entry["shape"]))
    return arrays
