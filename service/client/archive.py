"""Splits an archive into requests that a service accepts."""

from __future__ import annotations

from collections.abc import Iterator

from vlibrary.client.call import Call
from vlibrary.domain.errors import VLibraryError
from vlibrary.formats.archive import MEDIA_TYPE, Archive, Item, pack
from vlibrary.library.transfer import Outcome
from vlibrary.schemas.problems import ProblemOut
from vlibrary.schemas.registry import ImportedOut, ImportOut

# Limits of one request: below the service's default body limit, and small enough to be imported within the timeout.
BATCH_BYTES = 16 * 2**20
BATCH_ITEMS = 100
MAX_ITEM_BYTES = 2**31


def import_calls(archive: Archive, *, update: bool) -> Iterator[Call[list[ImportedOut]] | ImportedOut]:
    """Yield the requests that import the archive; for vectors whose bytes are damaged, yield their result at once."""
    batch: list[Item] = []
    size = 0
    for entry in archive.entries:
        try:
            item = archive.item(entry, artifact_bytes=MAX_ITEM_BYTES, card_bytes=MAX_ITEM_BYTES)
        except VLibraryError as error:
            problem = ProblemOut(
                type=f"/problems/{error.code}", title=error.title, status=422, detail=error.detail, cure=error.cure
            )
            yield ImportedOut(
                id=entry.id, name=entry.name, version=None, state=None, outcome=Outcome.REFUSED, problem=problem
            )
            continue
        size += len(item.artifact) + len(item.card)
        if batch and (len(batch) == BATCH_ITEMS or size > BATCH_BYTES):
            yield _import(batch, update)
            batch, size = [], len(item.artifact) + len(item.card)
        batch.append(item)
    if batch:
        yield _import(batch, update)


def _import(batch: list[Item], update: bool) -> Call[list[ImportedOut]]:
    return Call(
        "POST",
        "/import",
        lambda response: ImportOut.model_validate_json(response.content).items,
        {"params": {"update": update}, "content": b"".join(pack(batch)), "headers": {"Content-Type": MEDIA_TYPE}},
    )
