"""Whole archives, out of a library and into one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Unpack

from vlibrary.client.registry import Which
from vlibrary.client.transport import Json, Transport
from vlibrary.domain.errors import VLibraryError
from vlibrary.formats.archive import MEDIA_TYPE, Archive, Item, pack

# What is sent at a time: below what a service takes by default, and little enough to be loaded within the timeout.
BATCH_BYTES = 16 * 2**20
BATCH_ITEMS = 100
MOST_BYTES = 2**31


class Archives(Transport):
    """Export and import."""

    @contextmanager
    def export(self, **which: Unpack[Which]) -> Iterator[Iterator[bytes]]:
        """The archive of the vectors that are meant, in pieces. Reading raises ServiceError when it breaks off."""
        with self._streamed("GET", "/export", params=dict(which)) as response:
            yield response.iter_bytes()

    def load(self, archive: Archive, *, update: bool = False) -> Iterator[Json]:
        """Import an archive part by part: for each vector, what became of it (see ImportedOut at /docs).

        update: vectors that are there already get the archive's description, tags and metadata.
        Loading it again changes nothing, so a load that broke off is simply begun anew.
        """
        batch: list[Item] = []
        for entry in archive.entries:
            try:
                item = archive.item(entry, artifact_bytes=MOST_BYTES, card_bytes=MOST_BYTES)
            except VLibraryError as error:
                told = {"title": error.title, "detail": error.detail, "cure": error.cure}
                yield {"id": entry.id, "name": entry.name, "version": None, "outcome": "refused", "problem": told}
                continue
            if batch and (len(batch) == BATCH_ITEMS or _size([*batch, item]) > BATCH_BYTES):
                yield from self._load(batch, update)
                batch = []
            batch.append(item)
        if batch:
            yield from self._load(batch, update)

    def _load(self, batch: list[Item], update: bool) -> list[Json]:
        sent = {"content": b"".join(pack(batch)), "headers": {"Content-Type": MEDIA_TYPE}}
        items: list[Json] = self._json("POST", "/import", params={"update": update}, **sent)["items"]
        return items


def _size(batch: list[Item]) -> int:
    return sum(len(item.artifact) + len(item.card) for item in batch)
