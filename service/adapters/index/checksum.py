"""What a task index holds, in two numbers, so that two of them can be compared without their keys side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.index.segment import Segment
from vlibrary.domain.ports import Position

_DIGEST_BYTES = 8


@dataclass(frozen=True)
class Census:
    """keys: how many. digest: the sum of their digests: their order does not matter, the number of copies does."""

    position: Position | None
    keys: int
    digest: int


def census(index: FaissIndex) -> Census:
    """Of everything that can be found in the index at one moment."""
    state = index.state
    keys = digest = 0
    for model_id, shelf in state.shelves.items():
        for segment in shelf.segments:
            for vector_id, row in _rows(segment):
                label = f"{model_id}\0{vector_id}\0".encode()
                keys += 1
                digest += int.from_bytes(hashlib.blake2b(label + row, digest_size=_DIGEST_BYTES).digest())
    return Census(state.position, keys, digest % 2 ** (8 * _DIGEST_BYTES))


def _rows(segment: Segment) -> Iterator[tuple[str, bytes]]:
    members = segment.living()
    owners = (vector_id for vector_id, count in zip(members.ids, members.counts, strict=True) for _ in range(count))
    rows = (row.tobytes() for chunk in segment.chunks() for row in chunk)
    return zip(owners, rows, strict=True)
