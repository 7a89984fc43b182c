"""Writes GGUF files, version 3."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlibrary.domain.vector import Array


def write_gguf(metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray[Any, Any]], alignment: int = 32) -> bytes:
    """Return the file. Metadata: texts, whole numbers (u32) and lists of texts; tensors: float32 or float16."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for name, value in metadata.items():
        head += _text(name) + _value(value)
    offset, body = 0, b""
    for name, tensor in tensors.items():
        kind = {np.dtype(np.float32): 0, np.dtype(np.float16): 1}[tensor.dtype]
        head += _text(name) + struct.pack("<I", tensor.ndim) + struct.pack(f"<{tensor.ndim}Q", *tensor.shape[::-1])
        head += struct.pack("<IQ", kind, offset)
        data = tensor.tobytes()
        body += data + bytes(-len(data) % alignment)
        offset = len(body)
    return head + bytes(-len(head) % alignment) + body


def control_vector(
    directions: Mapping[int, Array], *, architecture: str = "controlvector", hint: str = "llama"
) -> bytes:
    """Return a control vector as repeng writes it."""
    metadata = {
        "general.architecture": architecture,
        f"{architecture}.model_hint": hint,
        f"{architecture}.layer_count": len(directions),
    }
    return write_gguf(metadata, {f"direction.{layer}": direction for layer, direction in directions.items()})


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    match value:
        case str():
            return struct.pack("<I", 8) + _text(value)
        case int():
            return struct.pack("<II", 4, value)
        case _:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
