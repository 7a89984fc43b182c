"""A cache of embeddings by content."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from vlibrary.domain.vector import Array

# What an entry takes beyond its numbers, measured: the key, the array's header and the cache's own records.
ENTRY_BYTES = 500


@dataclass(frozen=True, eq=False)
class Embedded:
    """The embedding of one image or text, [d], of length 1. tokens: of the whole text; 0 for an image."""

    row: Array
    tokens: int = 0


class EmbeddingCache:
    """The most recently used embeddings of one embedder, at most `max_bytes` of them; safe for many threads.

    hits, misses: numbers of lookups.
    """

    def __init__(self, max_bytes: int) -> None:
        self._entries: LRUCache[bytes, Embedded] = LRUCache(max_bytes, lambda found: found.row.nbytes + ENTRY_BYTES)
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    @property
    def size(self) -> int:
        """The size of the cached embeddings, in bytes."""
        return int(self._entries.currsize)

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Embedded]:
        """Return the cached embeddings among these."""
        with self._lock:
            found = {key: self._entries[key] for key in keys if key in self._entries}
            hits = sum(key in found for key in keys)
            self.hits += hits
            self.misses += len(keys) - hits
        return found

    def add(self, new: Mapping[bytes, Embedded]) -> None:
        """Add embeddings; those larger than the whole cache are ignored."""
        with self._lock:
            for key, embedded in new.items():
                if embedded.row.nbytes + ENTRY_BYTES <= self._entries.maxsize:
                    self._entries[key] = embedded


def image_key(image: bytes) -> bytes:
    """Return the key of an encoded image."""
    return b"image" + hashlib.sha256(image).digest()


def text_key(text: str) -> bytes:
    """Return the key of a text."""
    return b"text" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
