"""Export vectors to an archive and import them into another library, with their ids, so that lineage is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from vlibrary.domain.card import KeyKind, Status, VectorCard, VectorRecord
from vlibrary.domain.errors import InvalidArchive, VectorExists, VectorNotFound, VLibraryError
from vlibrary.domain.filters import Filter
from vlibrary.domain.labels import same_metadata
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.registration import ANONYMOUS, Amendment
from vlibrary.formats.archive import Archive, Entry, Item, pack
from vlibrary.formats.card import dump_card, parse_card
from vlibrary.library.library import Library
from vlibrary.library.paging import iter_pages
from vlibrary.library.publish import Submission, publish
from vlibrary.library.vectors import amend

# HTTP headers cannot carry this character, so no client can send such an idempotency key.
_IMPORT = "\N{RIGHTWARDS ARROW}import:"


class Outcome(StrEnum):
    """The result for one vector of an archive.

    PRESENT: the library has it, possibly deleted, with the same description, tags and metadata. DIFFERS: it has other
    ones, which are kept. UPDATED: it had other ones and now has the archive's.
    """

    IMPORTED = "imported"
    PRESENT = "present"
    DIFFERS = "differs"
    UPDATED = "updated"
    REFUSED = "refused"


@dataclass(frozen=True)
class Loaded:
    """The result for one vector. record: in this library. seq: the log's seq afterwards. error: if it was refused."""

    entry: Entry
    outcome: Outcome
    record: VectorRecord | None = None
    seq: int = 0
    error: VLibraryError | None = None


def export(which: Filter, library: Library) -> Iterator[bytes]:
    """Yield the archive of all vectors that pass the filter, in pieces.

    Raises ArtifactLost and Unavailable at any piece. A truncated archive has no manifest, so no library loads it.
    """
    vectors = library.catalogue.vectors
    return pack(_to_item(record, library.artifacts) for page in iter_pages(vectors, which) for record in page.records)


@dataclass(frozen=True)
class Loader:
    """Imports archives into a library.

    artifact_bytes, card_bytes: size limits. update: amend existing vectors with the archive's description, tags and
    metadata.
    """

    library: Library
    artifact_bytes: int
    card_bytes: int
    update: bool = False

    def load(self, archive: Archive, *, actor: str = ANONYMOUS) -> Iterator[Loaded]:
        """Import the archive's vectors, oldest version first. Idempotent.

        An error with one vector is part of its result and does not stop the others.
        """
        for entry in archive.entries:
            try:
                yield self._load(archive, entry, actor)
            except VLibraryError as error:
                yield Loaded(entry, Outcome.REFUSED, error=error)

    def _load(self, archive: Archive, entry: Entry, actor: str) -> Loaded:
        item = archive.item(entry, artifact_bytes=self.artifact_bytes, card_bytes=self.card_bytes)
        card = _read_card(item)
        known = self._find_existing(entry)
        if known is not None:
            return self._merge(entry, known, card, actor)
        submission = Submission(item.artifact, card, _IMPORT + entry.id, actor, entry.id)
        record = publish(submission, self.library)
        return Loaded(entry, Outcome.IMPORTED, record, record.seq)

    def _merge(self, entry: Entry, known: VectorRecord, card: VectorCard, actor: str) -> Loaded:
        """Keep or amend the existing vector. Only fields that can be amended are compared."""
        amendment = _difference(known.card, card)
        if amendment == Amendment():
            return Loaded(entry, Outcome.PRESENT, known, known.seq)
        if not self.update or known.status is not Status.ACTIVE:
            return Loaded(entry, Outcome.DIFFERS, known, known.seq)
        record, seq = amend(known.id, amendment, self.library, expected_revision=known.revision, actor=actor)
        return Loaded(entry, Outcome.UPDATED, record, seq)

    def _find_existing(self, entry: Entry) -> VectorRecord | None:
        """Return the vector with the entry's id, if any. Raises VectorExists if it is a different vector."""
        try:
            record = self.library.catalogue.vectors.get(entry.id, deleted=True)
        except VectorNotFound:
            return None
        if (record.sha256, record.name) != (entry.sha256, entry.name):
            raise VectorExists(
                f"The id {entry.id} belongs to another vector here, {record.name} version {record.version}.",
                "One of the two was altered: find out which, and register the other one from its file.",
            )
        return record


def _difference(here: VectorCard, there: VectorCard) -> Amendment:
    """Return the amendment that makes `here` equal to `there`."""
    return Amendment(
        description=None if here.description == there.description else there.description,
        tags=None if here.tags == there.tags else there.tags,
        metadata=None if same_metadata(here.metadata, there.metadata) else there.metadata,
    )


def _read_card(item: Item) -> VectorCard:
    card = parse_card(item.card)
    if card.name != item.entry.name:
        raise InvalidArchive(
            f"The card's name is {card.name!r}, and the manifest says {item.entry.name!r}.", "Export it again."
        )
    return card


def _to_item(record: VectorRecord, artifacts: Artifacts) -> Item:
    """Return the vector without its description's key, which each library computes with its own embedder."""
    keys = tuple(key for key in record.card.keys if key.kind is not KeyKind.DESCRIPTION)
    card = replace(record.card, keys=keys, embedder=record.card.embedder if keys else None)
    artifact = artifacts.get(record.object_key, record.sha256)
    return Item.of(record.id, record.name, record.version, artifact, dump_card(card).encode())
